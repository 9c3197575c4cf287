//! A client of HTTP/2 that does as it is told: frames by hand, for what no
//! well-behaved client does.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// What every client says first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Settings without any.
pub const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
/// The acknowledgement of the server's settings.
pub const SETTINGS_ACK: [u8; 9] = [0, 0, 0, 4, 1, 0, 0, 0, 0];

/// A frame with a part of a body.
pub const DATA: u8 = 0;
/// A frame with headers or trailers.
pub const HEADERS: u8 = 1;
/// A frame that ends a stream at once, with a reason.
pub const RST_STREAM: u8 = 3;
/// The reason of a stream that was not looked at.
pub const REFUSED_STREAM: [u8; 4] = 7_u32.to_be_bytes();
/// A frame that asks whether the peer is there, or answers.
pub const PING: u8 = 6;
/// A frame that tells the peer to go.
pub const GOAWAY: u8 = 7;
/// A frame that lets the peer send more.
pub const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// How long to wait for a frame that must come.
const FRAME_MAX: Duration = Duration::from_secs(60);

/// A frame as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// One of the constants.
    pub kind: u8,
    /// What they mean depends on the kind.
    pub flags: u8,
    /// 0 for the connection.
    pub stream: u32,
    /// Without the header.
    pub payload: Vec<u8>,
}

impl Frame {
    /// Whether nothing more comes on this stream.
    pub fn ends_stream(&self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & END_STREAM != 0
    }
}

/// A connection.
#[derive(Debug)]
pub struct Raw {
    stream: UnixStream,
}

impl Raw {
    /// Connects, and says what a client has to say at first.
    ///
    /// # Errors
    /// As the system says.
    pub fn connect(path: &Path) -> io::Result<Self> {
        Self::connect_with(path, &SETTINGS)
    }

    /// The same, and lets the server send only so many bytes of each answer.
    ///
    /// # Errors
    /// As the system says.
    pub fn connect_with_window(path: &Path, bytes: u32) -> io::Result<Self> {
        let settings = [&[0, 0, 6, 4, 0, 0, 0, 0, 0], &[0, 4][..], &bytes.to_be_bytes()];
        Self::connect_with(path, &settings.concat())
    }

    fn connect_with(path: &Path, settings: &[u8]) -> io::Result<Self> {
        let mut stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(FRAME_MAX))?;
        stream.write_all(&[PREFACE, settings, &SETTINGS_ACK].concat())?;
        Ok(Self { stream })
    }

    fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?.to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.stream.write_all(&frame)
    }

    /// Begins a call of a method such as `/keyserver.v1.KeyServer/Health`; its
    /// message is still to come.
    ///
    /// # Errors
    /// As the system says.
    ///
    /// # Panics
    /// When the path is very long.
    pub fn begin_call(&mut self, stream: u32, path: &str) -> io::Result<()> {
        self.begin_call_with(stream, path, &[])
    }

    /// The same with further headers, of short texts.
    ///
    /// # Errors
    /// As the system says.
    ///
    /// # Panics
    /// When a text is long.
    pub fn begin_call_with(
        &mut self,
        stream: u32,
        path: &str,
        headers: &[(&str, &str)],
    ) -> io::Result<()> {
        // POST and http by their numbers in HPACK's table, the rest as texts.
        let mut block = vec![0x83, 0x86];
        for (name, value) in [(0x04, path), (0x01, "localhost")] {
            block.push(name);
            push_text(&mut block, value);
        }
        let usual = [("content-type", "application/grpc"), ("te", "trailers")];
        for (name, value) in usual.iter().chain(headers) {
            block.push(0);
            push_text(&mut block, name);
            push_text(&mut block, value);
        }
        self.send(HEADERS, END_HEADERS, stream, &block)
    }

    /// Sends the message of a call, and that nothing follows.
    ///
    /// # Errors
    /// As the system says.
    pub fn end_call(&mut self, stream: u32, message: &[u8]) -> io::Result<()> {
        let bytes = [&message_head(message.len())[..], message].concat();
        self.send(DATA, END_STREAM, stream, &bytes)
    }

    /// Begins a message of a call that says how long it will be.
    ///
    /// # Errors
    /// As the system says.
    pub fn begin_message(&mut self, stream: u32, length: usize) -> io::Result<()> {
        self.send(DATA, 0, stream, &message_head(length))
    }

    /// Sends a part of a message.
    ///
    /// # Errors
    /// As the system says.
    pub fn part(&mut self, stream: u32, bytes: &[u8]) -> io::Result<()> {
        self.send(DATA, 0, stream, bytes)
    }

    /// Lets the server send so many bytes more of an answer.
    ///
    /// # Errors
    /// As the system says.
    pub fn widen(&mut self, stream: u32, bytes: u32) -> io::Result<()> {
        self.send(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes())
    }

    /// Asks whether the server is there, and waits for its answer: then it has
    /// read all that was sent before.
    ///
    /// # Errors
    /// As the system says; when it ends without an answer.
    pub fn ping(&mut self) -> io::Result<()> {
        self.send(PING, 0, 0, b"are you?")?;
        self.until(|frame| frame.kind == PING && frame.flags == 1).map(drop)
    }

    /// The frames up to one that is wanted; pings are answered.
    ///
    /// # Errors
    /// When the connection ends before, or nothing comes for long.
    pub fn until(&mut self, is_wanted: impl Fn(&Frame) -> bool) -> io::Result<Vec<Frame>> {
        let mut frames = Vec::new();
        loop {
            let frame = self.frame()?;
            let is_last = is_wanted(&frame);
            frames.push(frame);
            if is_last {
                return Ok(frames);
            }
        }
    }

    /// The frames up to the end of the connection.
    ///
    /// # Errors
    /// When nothing comes for long, and the connection does not end.
    pub fn rest(&mut self) -> io::Result<Vec<Frame>> {
        let mut frames = Vec::new();
        loop {
            match self.frame() {
                Ok(frame) => frames.push(frame),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                // The end, also in the midst of what was still to be read.
                Err(_) => return Ok(frames),
            }
        }
    }

    fn frame(&mut self) -> io::Result<Frame> {
        let mut header = [0; 9];
        self.stream.read_exact(&mut header)?;
        let [a, b, c, kind, flags, stream @ ..] = header;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload)?;
        if kind == PING && flags == 0 {
            // It may be the last thing that the server wants to know.
            let _ = self.send(PING, 1, 0, &payload);
        }
        Ok(Frame { kind, flags, stream: u32::from_be_bytes(stream) & 0x7fff_ffff, payload })
    }
}

/// gRPC's own head of a message: not compressed, and how long.
fn message_head(length: usize) -> [u8; 5] {
    let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [0, a, b, c, d]
}

fn push_text(block: &mut Vec<u8>, text: &str) {
    block.push(u8::try_from(text.len()).ok().filter(|length| *length < 127).expect("it is short"));
    block.extend(text.as_bytes());
}
