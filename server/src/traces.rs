//! An answer with keys leaves nothing of them in the connection's buffer.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Bytes;
use tonic::codegen::http::Response;

/// The call whose answers hold keys.
const SELECT: &str = "/keyserver.v1.KeyServer/SelectKeysForSession";

/// The answer to a call of this path, such that none of its keys stay behind.
pub(crate) fn without_traces(path: &str, response: Response<Body>) -> Response<Body> {
    if path == SELECT { response.map(Filled::body) } else { response }
}

/// Bytes that stand before an answer with keys: in its form a field of type
/// `bytes` with the number 15, which `SelectKeysResponse` does not have, so
/// that readers skip it.
///
/// HTTP/2 as we have it (h2, `codec/framed_write.rs`) copies answers of less
/// than 256 bytes, and the first 256 of longer ones, into a buffer that a
/// connection keeps as long as it lives. With these before, there is nothing
/// of a key in it. The rest is freed when it is sent, and wiped with that.
const FILLER: [u8; 259] = {
    let mut bytes = [0; 259];
    // The field's number and type, and 256 as its length.
    [bytes[0], bytes[1], bytes[2]] = [15 << 3 | 2, 0x80, 0x02];
    bytes
};
/// Before a message: whether it is compressed (1 byte), its length (4).
const PREFIX_BYTES: usize = 5;

/// An answer with the filler before it.
struct Filled {
    body: Body,
    has_begun: bool,
}

impl Filled {
    fn body(body: Body) -> Body {
        Body::new(Self { body, has_begun: false })
    }
}

impl http_body::Body for Filled {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        let has_begun = std::mem::replace(&mut self.has_begun, true);
        Poll::Ready(frame.map(|frame| match has_begun {
            true => frame,
            false => frame.map(|frame| frame.map_data(filled)),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// The first part of an answer, which has all of the prefix: tonic makes it so.
/// A compressed one, which there is none of, stays as it is.
fn filled(part: Bytes) -> Bytes {
    let [0, a, b, c, d, ref message @ ..] = part[..] else { return part };
    let length = u32::from_be_bytes([a, b, c, d]);
    let Some(length) = length.checked_add(FILLER.len() as u32) else { return part };
    let mut filled = Vec::with_capacity(PREFIX_BYTES + FILLER.len() + message.len());
    filled.push(0);
    filled.extend(length.to_be_bytes());
    filled.extend(FILLER);
    filled.extend(message);
    filled.into()
}

#[cfg(test)]
mod tests {
    use key_server_proto::v1::SelectKeysResponse;
    use prost::Message as _;

    use super::*;

    #[test]
    fn filler_is_skipped_by_readers() {
        let answer =
            SelectKeysResponse { success: true, error: "x".repeat(90), ..Default::default() };
        let message = answer.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let part = filled([&[0][..], &length, &message].concat().into());
        let length = u32::from_be_bytes(part[1..PREFIX_BYTES].try_into().unwrap());
        assert_eq!(part.len(), PREFIX_BYTES + usize::try_from(length).unwrap());
        assert!(part.len() - message.len() > 256);
        assert_eq!(SelectKeysResponse::decode(&part[PREFIX_BYTES..]), Ok(answer));
    }

    #[test]
    fn what_has_no_prefix_of_a_plain_message_stays() {
        for part in [&b""[..], b"\0\0\0", b"\x01\0\0\0\x01x", b"\0\xff\xff\xff\xffx"] {
            let part = Bytes::copy_from_slice(part);
            assert_eq!(filled(part.clone()), part);
        }
    }
}
