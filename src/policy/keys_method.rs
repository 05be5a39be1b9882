//! The keys of one of a policy's methods.

use super::keys::{
    Keys,
    Takes::{
        Count, Duration, Either, Flag, Map, Maps, OneOf, Pairs, Size, Sizes, SomeOf, Text, Texts,
    },
    key,
};

pub(super) static METHOD: Keys = Keys::with(
    &[
        key(
            "selector",
            Text,
            "What clients call: package.Service/Method.",
        ),
        key(
            "mode",
            OneOf(&["enforce", "observe", "off"]),
            "enforce: its calls leave as batches. observe: they are forwarded as they come, and \
             what batches they would make is counted. off: forwarded.",
        ),
        key(
            "call",
            Text,
            "The method that a batch calls, where it is another one.",
        ),
        key(
            "batched_field",
            Text,
            "The repeated field of entries in the request that is sent.",
        ),
        key(
            "wrap",
            Text,
            "The field of an entry that holds a caller's whole request, where call names another \
             method.",
        ),
        key(
            "lift",
            Map(&LIFT),
            "The single form of a call, on the same path.",
        ),
        key(
            "discriminator_fields",
            Texts,
            "Fields, by dotted path from the request, that must be equal within a batch.",
        ),
        key(
            "entry_key",
            Texts,
            "The entry's fields that make two entries one.",
        ),
        key(
            "on_duplicate_key",
            OneOf(&["keep", "next_batch"]),
            "keep: two entries of one key may share a batch. next_batch: the second waits.",
        ),
        key(
            "barrier",
            Texts,
            "Methods of this policy: a call waits for their earlier calls on its entry_key, unless one of the two goes alone.",
        ),
        key(
            "require",
            Texts,
            "The entry's fields that must not be empty, else INVALID_ARGUMENT.",
        ),
        key(
            "unbatchable_if",
            Maps(&CONDITION),
            "A call for which any of these holds goes alone.",
        ),
        key(
            "reply",
            Either(&[OneOf(&["replicate"]), Map(&REPLY)]),
            "replicate: the reply is copied to every caller; or how it is split.",
        ),
        key(
            "on_error",
            Map(&ON_ERROR),
            "What becomes of a batch that fails.",
        ),
        key(
            "window",
            Map(&WINDOW),
            "When a batch leaves, and how large it may be.",
        ),
        key("queue", Map(&QUEUE), "What may wait."),
        key(
            "max_message_bytes",
            Size,
            "The most that one call may hold, decompressed: 4MiB, or queue.max_bytes if that is less.",
        ),
        key(
            "max_field_bytes",
            Sizes,
            "The most bytes of the entry's fields, by name.",
        ),
    ],
    &["selector", "batched_field"],
);

pub(super) static LIFT: Keys = Keys::with(
    &[
        key("from", Text, "The message of the single form."),
        key(
            "fields",
            Pairs,
            "Where its fields go: its name, the entry's name.",
        ),
    ],
    &["from", "fields"],
);

pub(super) static CONDITION: Keys = Keys::with(
    &[
        key("field", Text, "The field, by dotted path from the request."),
        key("is", OneOf(&["present", "empty"]), "What must be so."),
    ],
    &["field", "is"],
);

pub(super) static REPLY: Keys = Keys::any_of(&[
    key(
        "subresponse_field",
        Text,
        "The repeated field with one part for each entry, in order.",
    ),
    key(
        "unwrap",
        Text,
        "The field of a part that is the caller's reply.",
    ),
    key(
        "fill",
        Pairs,
        "What a part lacks and the reply has: the reply's name, the part's name.",
    ),
    key(
        "status_field",
        Text,
        "The part's field that is a status of its own.",
    ),
    key(
        "require",
        Maps(&HELD),
        "What must hold of the reply, else nobody gets a success.",
    ),
    key(
        "max_bytes",
        Size,
        "The most bytes of a batch's reply, from a remote upstream: 4MiB, or 64MiB where it is split.",
    ),
]);

pub(super) static HELD: Keys = Keys::with(
    &[
        key("field", Text, "A field of the reply."),
        key(
            "is",
            Either(&[Flag, OneOf(&["present"])]),
            "What must be so.",
        ),
        key(
            "else",
            OneOf(&[
                "UNKNOWN",
                "NOT_FOUND",
                "ALREADY_EXISTS",
                "RESOURCE_EXHAUSTED",
                "FAILED_PRECONDITION",
                "ABORTED",
                "INTERNAL",
                "UNAVAILABLE",
            ]),
            "What every caller is told where it is not.",
        ),
    ],
    &["field", "is"],
);

const STATUSES: &[&str] = &[
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

pub(super) static ON_ERROR: Keys = Keys::any_of(&[
    key("atomic", Flag, "Of a rejected batch nothing was applied."),
    key(
        "bisect",
        SomeOf(STATUSES),
        "Statuses that are definite rejections where the upstream gives them: such a batch is cut \
         in halves until the entry at fault is alone.",
    ),
    key(
        "retry",
        Map(&RETRY),
        "A failed batch is sent again, within its callers' time.",
    ),
]);

pub(super) static RETRY: Keys = Keys::any_of(&[
    key("attempts", Count, "How often it is sent at most: 3."),
    key("on", SomeOf(STATUSES), "After these statuses."),
    key(
        "idempotent",
        Flag,
        "Must be true: it says that twice does no harm.",
    ),
    key(
        "backoff",
        Duration,
        "The mean wait before the second time; it doubles.",
    ),
    key(
        "attempt_timeout",
        Duration,
        "Without an answer for so long it is sent again; the first may take effect late, even after a later write.",
    ),
]);

pub(super) static WINDOW: Keys = Keys::any_of(&[
    key("max_entries", Count, "The most entries of a batch: 500."),
    key("max_bytes", Size, "The most bytes of a batch: 1MiB."),
    key(
        "linger",
        Duration,
        "The longest that a first entry waits for company: 2ms.",
    ),
    key(
        "close",
        OneOf(&["adaptive", "fixed"]),
        "adaptive: at once while the upstream is idle, else paced. fixed: full or lingered.",
    ),
]);

pub(super) static QUEUE: Keys = Keys::any_of(&[
    key(
        "max_wait",
        Duration,
        "The longest that an entry waits before it is shed: 1s.",
    ),
    key("max_bytes", Size, "The most bytes that wait: 64MiB."),
    key(
        "max_partitions",
        Count,
        "The most kinds of callers that wait at once: 1024.",
    ),
]);
