//! Messages on their way to the server, within the windows that it grants
//! (RFC 9113, section 5.2). Pure.

use std::collections::VecDeque;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::frame::{DATA, END_STREAM, put_header};

/// Every window before any update.
pub(super) const DEFAULT_WINDOW: u32 = 65_535;
/// The longest frame that every server takes.
const DEFAULT_FRAME: usize = 16_384;

/// What may be sent, and what waits until it may.
#[derive(Debug)]
pub(super) struct Uploads {
    /// Of the connection.
    window: i64,
    /// Of a new stream.
    stream_window: u32,
    max_frame: usize,
    waiting: VecDeque<Upload>,
}

#[derive(Debug)]
struct Upload {
    stream: u32,
    rest: Bytes,
    window: i64,
}

impl Uploads {
    /// Nothing waits, and all limits are the defaults.
    pub(super) fn new() -> Self {
        Self {
            window: DEFAULT_WINDOW.into(),
            stream_window: DEFAULT_WINDOW,
            max_frame: DEFAULT_FRAME,
            waiting: VecDeque::new(),
        }
    }

    /// Sends `message`, which ends its stream, as far as the windows allow; the
    /// rest follows when they open.
    pub(super) fn send(&mut self, stream: u32, message: Bytes, to: &mut BytesMut) {
        let mut upload = Upload {
            stream,
            rest: message,
            window: self.stream_window.into(),
        };
        // Behind those that wait for the connection's window already.
        if !self.waiting.is_empty() || !self.advance(&mut upload, to) {
            self.waiting.push_back(upload);
        }
    }

    /// Sends no more of `stream`; whether there was more to send.
    pub(super) fn forget(&mut self, stream: u32) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|upload| upload.stream != stream);
        self.waiting.len() < before
    }

    /// Opens the window of `stream` (0: of the connection) by `more` bytes.
    pub(super) fn widen(&mut self, stream: u32, more: i64, to: &mut BytesMut) {
        if stream == 0 {
            self.window += more;
        } else if let Some(upload) = self
            .waiting
            .iter_mut()
            .find(|upload| upload.stream == stream)
        {
            upload.window += more;
        }
        self.send_waiting(to);
    }

    /// The server's setting of the window that a stream begins with, which
    /// holds for those that have begun, too.
    pub(super) fn limit_streams(&mut self, window: u32) {
        let change = i64::from(window) - i64::from(self.stream_window);
        self.waiting
            .iter_mut()
            .for_each(|upload| upload.window += change);
        self.stream_window = window;
    }

    /// The server's setting of the longest frame, in bytes.
    pub(super) fn limit_frames(&mut self, bytes: u32) {
        self.max_frame = bytes as usize;
    }

    /// Sends what may be sent by now.
    pub(super) fn send_waiting(&mut self, to: &mut BytesMut) {
        if self.window <= 0 {
            return;
        }
        for _ in 0..self.waiting.len() {
            let Some(mut upload) = self.waiting.pop_front() else {
                return;
            };
            // One that waits for its own window lets the others pass.
            if !self.advance(&mut upload, to) {
                self.waiting.push_back(upload);
            }
        }
    }

    /// Sends as much of a message as the windows allow; whether all of it.
    fn advance(&mut self, upload: &mut Upload, to: &mut BytesMut) -> bool {
        loop {
            let room = self
                .window
                .min(upload.window)
                .clamp(0, self.max_frame as i64) as usize;
            let length = upload.rest.len().min(room);
            if length == 0 {
                return false;
            }
            let ends = length == upload.rest.len();
            let flags = if ends { END_STREAM } else { 0 };
            put_header(to, length, DATA, flags, upload.stream);
            to.put_slice(&upload.rest[..length]);
            upload.rest.advance(length);
            upload.window -= length as i64;
            self.window -= length as i64;
            if ends {
                return true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (stream, length, ends) of each DATA frame.
    fn sent(to: &mut BytesMut) -> Vec<(u32, usize, bool)> {
        let mut frames = Vec::new();
        while to.has_remaining() {
            let length = to.get_uint(3) as usize;
            assert_eq!(to.get_u8(), DATA);
            let ends = to.get_u8() == END_STREAM;
            frames.push((to.get_u32(), length, ends));
            to.advance(length);
        }
        frames
    }

    fn message(length: usize) -> Bytes {
        vec![7; length].into()
    }

    #[test]
    fn a_message_is_cut_into_frames_and_waits_for_the_connections_window() {
        let (mut uploads, mut to) = (Uploads::new(), BytesMut::new());
        uploads.limit_streams(1_000_000);
        uploads.send(1, message(65_000), &mut to);
        uploads.send(3, message(1_000), &mut to);
        uploads.send(5, message(10), &mut to);
        let first = [(1, 16_384, false), (1, 16_384, false), (1, 16_384, false)];
        assert_eq!(
            sent(&mut to),
            [&first[..], &[(1, 15_848, true), (3, 535, false)]].concat(),
            "the last of 65,535 bytes, and nobody overtakes"
        );
        uploads.widen(0, 470, &mut to);
        assert_eq!(sent(&mut to), [(3, 465, true), (5, 5, false)]);
        uploads.widen(0, 5, &mut to);
        assert_eq!(sent(&mut to), [(5, 5, true)]);
    }

    #[test]
    fn a_stream_that_waits_for_its_own_window_lets_others_pass() {
        let (mut uploads, mut to) = (Uploads::new(), BytesMut::new());
        uploads.limit_streams(100);
        uploads.send(1, message(150), &mut to);
        uploads.send(3, message(90), &mut to);
        uploads.send_waiting(&mut to);
        assert_eq!(sent(&mut to), [(1, 100, false), (3, 90, true)]);
        uploads.limit_streams(120);
        uploads.widen(1, 10, &mut to);
        assert_eq!(
            sent(&mut to),
            [(1, 30, false)],
            "20 by the setting, 10 by the update"
        );
        uploads.widen(1, 20, &mut to);
        assert_eq!(sent(&mut to), [(1, 20, true)]);
    }

    #[test]
    fn what_is_forgotten_is_not_sent() {
        let (mut uploads, mut to) = (Uploads::new(), BytesMut::new());
        uploads.limit_streams(10);
        uploads.send(1, message(20), &mut to);
        assert_eq!(sent(&mut to), [(1, 10, false)]);
        assert!(uploads.forget(1));
        assert!(!uploads.forget(1));
        uploads.widen(1, 100, &mut to);
        assert!(to.is_empty());
    }
}
