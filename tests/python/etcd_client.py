"""A client of etcd that ferry did not write: the `aetcd` package, unchanged.

It puts many keys at once, reads them back, and uses what is not a put: a
transaction, a lease, a watch, a delete. It exits 0 only if every answer is
what etcd promises.
"""

import argparse
import asyncio
import sys

import aetcd

SECONDS = 50


def want(what, got, wanted):
    if got != wanted:
        raise SystemExit(f"{what}: {got!r}: must be {wanted!r}")


async def put_many(client, count):
    names = [f"python/{number}" for number in range(count)]
    replies = await asyncio.gather(
        *(client.put(name.encode(), f"value of {name}".encode()) for name in names)
    )
    for reply in replies:
        want("a put's cluster", reply.header.cluster_id > 0, True)
        want("a put's term", reply.header.raft_term > 0, True)
        want("a put's revision", reply.header.revision > 0, True)
    for name in names:
        found = await client.get(name.encode())
        want(name, found.value, f"value of {name}".encode())


async def everything_else(client):
    await client.put(b"txn", b"1")
    succeeded, _ = await client.transaction(
        compare=[client.transactions.value(b"txn") == b"1"],
        success=[client.transactions.put(b"txn", b"2")],
        failure=[client.transactions.put(b"txn", b"3")],
    )
    want("the transaction", succeeded, True)
    want("what it wrote", (await client.get(b"txn")).value, b"2")

    lease = await client.lease(60)
    await client.put(b"leased", b"1", lease=lease)
    await lease.revoke()
    want("after its lease", await client.get(b"leased"), None)

    watch = await client.watch(b"watched")
    await client.put(b"watched", b"seen")
    async for event in watch:
        want("what the watch saw", event.kv.value, b"seen")
        break
    await watch.cancel()

    await client.put(b"gone", b"1")
    await client.delete(b"gone")
    want("after its deletion", await client.get(b"gone"), None)


async def run(args):
    async with aetcd.Client(host=args.host, port=args.port, timeout=SECONDS) as client:
        await put_many(client, args.count)
        await everything_else(client)
    print(f"{args.count} put and read back; transaction, lease, watch and delete as promised")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--count", type=int, default=500, help="concurrent puts")
    asyncio.run(asyncio.wait_for(run(parser.parse_args()), SECONDS))


if __name__ == "__main__":
    sys.exit(main())
