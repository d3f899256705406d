//! The client side of HTTP/2 (RFC 9113), as much of it as unary gRPC calls need.
//!
//! Written by hand because a general client costs several times what a fast server does, and would then be what is
//! measured. Whatever it does not know it refuses loudly: a benchmark must not go on with half its load.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DEFAULT_WINDOW: i64 = 65_535;
const DEFAULT_TABLE: u32 = 4096;
const OUR_WINDOW: u32 = 0x7fff_ffff;
const READ_BYTES: usize = 1 << 16;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

/// One call on its way.
pub struct Call {
    /// What its latency counts from.
    pub since: Instant,
    /// For each decision asked for, which abuser asks.
    pub abusers: Vec<u32>,
    answer: Vec<u8>,
    status: Option<u32>,
}

/// One call that is over.
pub struct Done<'a> {
    pub call: &'a Call,
    /// gRPC status; `NO_STATUS` when the stream was reset or ended without one.
    pub status: u32,
    /// The message, without gRPC's prefix; empty on an error.
    pub message: &'a [u8],
}

pub const NO_STATUS: u32 = 999;

pub struct Connection {
    pub socket: TcpStream,
    path: String,
    authority: String,
    input: Vec<u8>,
    output: Vec<u8>,
    written: usize,
    calls: HashMap<u32, Call>,
    next_stream: u32,
    window: i64,
    peer_stream_window: i64,
    peer_table: u32,
    pub peer_streams: usize,
    received: u32,
    is_indexed: bool,
    is_ready: bool,
    decoder: fluke_hpack::Decoder<'static>,
    /// Header blocks that only refer to tables, by their bytes: nearly all are the same two.
    known: HashMap<Vec<u8>, Option<u32>>,
}

impl Connection {
    pub fn open(address: &str, path: &str) -> io::Result<Self> {
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let mut output = PREFACE.to_vec();
        // ENABLE_PUSH 0, INITIAL_WINDOW_SIZE as large as it may be.
        write_frame(&mut output, SETTINGS, 0, 0, &[&[0, 2, 0, 0, 0, 0], &[0, 4, 0x7f, 0xff, 0xff, 0xff]]);
        write_frame(&mut output, WINDOW_UPDATE, 0, 0, &[&(OUR_WINDOW - DEFAULT_WINDOW as u32).to_be_bytes()]);
        Ok(Connection {
            socket,
            path: path.to_owned(),
            authority: address.to_owned(),
            input: Vec::with_capacity(2 * READ_BYTES),
            output,
            written: 0,
            calls: HashMap::new(),
            next_stream: 1,
            window: DEFAULT_WINDOW,
            peer_stream_window: DEFAULT_WINDOW,
            peer_table: DEFAULT_TABLE,
            peer_streams: usize::MAX,
            received: 0,
            is_indexed: false,
            is_ready: false,
            decoder: fluke_hpack::Decoder::new(),
            known: HashMap::new(),
        })
    }

    /// The server's settings have come: calls may be made.
    pub fn is_ready(&self) -> bool {
        self.is_ready
    }

    pub fn under_way(&self) -> usize {
        self.calls.len()
    }

    pub fn has_output(&self) -> bool {
        self.written < self.output.len()
    }

    /// Whether a message of this size may be sent now, as far as flow control goes.
    pub fn has_window(&self, message_bytes: usize) -> bool {
        self.window >= message_bytes as i64 + 5
    }

    /// Queues one call. `flush` sends it.
    pub fn call(&mut self, message: &[u8], since: Instant, abusers: Vec<u32>) -> io::Result<()> {
        let length = message.len() + 5;
        if length as i64 > self.peer_stream_window || length > 16_384 {
            return Err(io::Error::other(format!(
                "a message of {length} bytes is larger than one frame or window of the server"
            )));
        }
        let stream = self.next_stream;
        self.next_stream += 2;
        self.window -= length as i64;
        self.write_headers(stream);
        let mut prefix = [0u8; 5];
        prefix[1..].copy_from_slice(&(message.len() as u32).to_be_bytes());
        write_frame(&mut self.output, DATA, END_STREAM, stream, &[&prefix, message]);
        self.calls.insert(stream, Call { since, abusers, answer: Vec::new(), status: None });
        Ok(())
    }

    /// The first call puts its fields into the server's table, the others refer to them, as any gRPC client does.
    fn write_headers(&mut self, stream: u32) {
        if self.is_indexed {
            write_frame(&mut self.output, HEADERS, END_HEADERS, stream, &[&[0x83, 0x86, 0xc1, 0xc0, 0xbf, 0xbe]]);
            return;
        }
        let can_index = self.peer_table >= DEFAULT_TABLE;
        let kind = if can_index { 0x40 } else { 0x00 };
        let mut block = vec![0x83, 0x86];
        write_field(&mut block, kind, 4, "", &self.path);
        write_field(&mut block, kind, 1, "", &self.authority);
        write_field(&mut block, kind, 0, "content-type", "application/grpc");
        write_field(&mut block, kind, 0, "te", "trailers");
        write_frame(&mut self.output, HEADERS, END_HEADERS, stream, &[&block]);
        self.is_indexed = can_index;
    }

    pub fn flush(&mut self) -> io::Result<()> {
        while self.has_output() {
            match self.socket.write(&self.output[self.written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.output.clear();
        self.written = 0;
        Ok(())
    }

    /// Reads what has come and hands over each call that is over.
    pub fn receive(&mut self, mut each: impl FnMut(Done)) -> io::Result<()> {
        let start = self.input.len();
        self.input.resize(start + READ_BYTES, 0);
        let count = match self.socket.read(&mut self.input[start..]) {
            Ok(0) => return Err(io::Error::other("the server closed the connection")),
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            Err(error) => return Err(error),
        };
        self.input.truncate(start + count);
        let input = std::mem::take(&mut self.input);
        let mut at = 0;
        while let Some(head) = input.get(at..at + 9) {
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let Some(payload) = input.get(at + 9..at + 9 + length) else { break };
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
            self.take_frame(head[3], head[4], stream, payload, &mut each)?;
            at += 9 + length;
        }
        self.input = input;
        self.input.drain(..at);
        Ok(())
    }

    fn take_frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8], each: &mut impl FnMut(Done)) -> io::Result<()> {
        match kind {
            DATA => {
                self.received += payload.len() as u32;
                if self.received > OUR_WINDOW / 2 {
                    write_frame(&mut self.output, WINDOW_UPDATE, 0, 0, &[&self.received.to_be_bytes()]);
                    self.received = 0;
                }
                if let Some(call) = self.calls.get_mut(&stream) {
                    call.answer.extend_from_slice(strip(payload, flags)?);
                }
            }
            HEADERS if flags & END_HEADERS == 0 => {
                return Err(io::Error::other("header blocks over several frames are not read"))
            }
            HEADERS => {
                let status = self.read_status(strip(payload, flags)?)?;
                if let (Some(call), Some(status)) = (self.calls.get_mut(&stream), status) {
                    call.status = Some(status);
                }
            }
            RST_STREAM => {
                self.finish(stream, each);
                return Ok(());
            }
            SETTINGS if flags & ACK == 0 => self.take_settings(payload),
            PING if flags & ACK == 0 => write_frame(&mut self.output, PING, ACK, 0, &[payload]),
            GOAWAY => return Err(io::Error::other("the server said goodbye")),
            WINDOW_UPDATE if stream == 0 => self.window += i64::from(read_u32(payload) & 0x7fff_ffff),
            CONTINUATION => return Err(io::Error::other("header blocks over several frames are not read")),
            _ => {}
        }
        if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
            self.finish(stream, each);
        }
        Ok(())
    }

    fn take_settings(&mut self, payload: &[u8]) {
        for setting in payload.chunks_exact(6) {
            let value = read_u32(&setting[2..]);
            match u16::from_be_bytes([setting[0], setting[1]]) {
                1 => self.peer_table = value,
                3 => self.peer_streams = value as usize,
                4 => self.peer_stream_window = i64::from(value),
                _ => {}
            }
        }
        write_frame(&mut self.output, SETTINGS, ACK, 0, &[]);
        self.is_ready = true;
    }

    fn finish(&mut self, stream: u32, each: &mut impl FnMut(Done)) {
        if let Some(call) = self.calls.remove(&stream) {
            let status = call.status.unwrap_or(NO_STATUS);
            let message = if status == 0 { call.answer.get(5..).unwrap_or_default() } else { &[] };
            each(Done { call: &call, status, message });
        }
    }

    fn read_status(&mut self, block: &[u8]) -> io::Result<Option<u32>> {
        // Only fields by their number: the block has the same meaning for as long as the table stays as it is.
        let is_pure = block.iter().all(|&byte| (0x81..0xff).contains(&byte));
        if is_pure {
            if let Some(&status) = self.known.get(block) {
                return Ok(status);
            }
        } else {
            self.known.clear();
        }
        let fields = self.decoder.decode(block).map_err(|error| io::Error::other(format!("unreadable headers: {error:?}")))?;
        let mut status = None;
        for (name, value) in fields {
            if name == b"grpc-status" {
                status = std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok());
            }
        }
        if is_pure {
            self.known.insert(block.to_vec(), status);
        }
        Ok(status)
    }
}

fn strip(payload: &[u8], flags: u8) -> io::Result<&[u8]> {
    let (mut from, mut to) = (0, payload.len());
    if flags & PADDED != 0 {
        from = 1;
        to -= usize::from(*payload.first().unwrap_or(&0));
    }
    if flags & PRIORITY != 0 {
        from += 5;
    }
    payload.get(from..to).ok_or_else(|| io::Error::other("a frame is shorter than its padding"))
}

fn read_u32(bytes: &[u8]) -> u32 {
    bytes.get(..4).map_or(0, |four| u32::from_be_bytes([four[0], four[1], four[2], four[3]]))
}

fn write_frame(output: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, parts: &[&[u8]]) {
    let length = parts.iter().map(|part| part.len()).sum::<usize>() as u32;
    output.extend_from_slice(&length.to_be_bytes()[1..]);
    output.extend_from_slice(&[kind, flags]);
    output.extend_from_slice(&stream.to_be_bytes());
    for part in parts {
        output.extend_from_slice(part);
    }
}

/// One literal field (RFC 7541, 6.2), its name by number in the static table, or written out when that is 0.
fn write_field(block: &mut Vec<u8>, kind: u8, name_number: u8, name: &str, value: &str) {
    block.push(kind | name_number);
    for text in [name, value].into_iter().skip(usize::from(name_number != 0)) {
        // Lengths from 127 on take a second byte; paths and addresses are shorter.
        assert!(text.len() < 127, "{text} is too long");
        block.push(text.len() as u8);
        block.extend_from_slice(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_carries_its_length_and_stream() {
        let mut output = Vec::new();
        write_frame(&mut output, DATA, END_STREAM, 5, &[b"ab", b"c"]);
        assert_eq!(output, [0, 0, 3, 0, 1, 0, 0, 0, 5, b'a', b'b', b'c']);
    }

    #[test]
    fn padding_is_left_out() {
        assert_eq!(strip(&[2, b'x', 0, 0], PADDED).unwrap(), b"x");
        assert!(strip(&[9, b'x'], PADDED).is_err());
    }

    #[test]
    fn fields_are_what_a_decoder_reads() {
        let mut block = vec![0x83, 0x86];
        write_field(&mut block, 0x40, 4, "", "/a.B/C");
        write_field(&mut block, 0x40, 0, "te", "trailers");
        let mut decoder = fluke_hpack::Decoder::new();
        let fields = decoder.decode(&block).unwrap();
        let texts: Vec<_> =
            fields.iter().map(|(name, value)| [name, value].map(|one| std::str::from_utf8(one).unwrap())).collect();
        assert_eq!(texts, [[":method", "POST"], [":scheme", "http"], [":path", "/a.B/C"], ["te", "trailers"]]);
        let again = decoder.decode(&[0xbf, 0xbe]).unwrap();
        assert_eq!(again[0].1, b"/a.B/C");
        assert_eq!(again[1].1, b"trailers");
    }
}
