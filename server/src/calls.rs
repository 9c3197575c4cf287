//! The calls of one connection: counted, with a deadline, and with a limit on
//! how long a request may take to arrive.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::{Bytes, Incoming};
use tokio::time::Sleep;
use tonic::Status;
use tonic::body::Body;

use crate::gate::Pass;
use crate::guard::Peer;
use crate::services::Services;

/// The caller's own deadline, by the name that gRPC has for it.
const DEADLINE: &str = "grpc-timeout";

/// How many calls began and ended.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    begun: AtomicU64,
    ended: AtomicU64,
    unread: Unread,
}

impl Calls {
    fn begin(self: &Arc<Self>) -> UnderWay {
        self.begun.fetch_add(1, Ordering::Relaxed);
        UnderWay(Arc::clone(self))
    }

    /// Resolves when there was no call for `time`, or up to twice as long:
    /// looking again once in a while costs less than a timer for each call.
    pub(crate) async fn idle(&self, time: Duration) {
        loop {
            let begun = self.begun.load(Ordering::Relaxed);
            let is_quiet = begun == self.ended.load(Ordering::Relaxed);
            tokio::time::sleep(time).await;
            if is_quiet && begun == self.begun.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    /// Resolves when an answer was not read for `time`, or up to twice as long.
    pub(crate) async fn unread(&self, time: Duration) {
        loop {
            tokio::time::sleep(time).await;
            if self.unread.has_old() {
                return;
            }
        }
    }
}

/// Answers that were given and not read, by the round in which that was. Two
/// rounds may be looked at while the third fills.
#[derive(Debug, Default)]
struct Unread {
    round: AtomicUsize,
    answers: [AtomicUsize; 3],
}

impl Unread {
    /// One more; answers its round.
    fn begin(&self) -> usize {
        let round = self.round.load(Ordering::Relaxed) % self.answers.len();
        self.answers[round].fetch_add(1, Ordering::Relaxed);
        round
    }

    fn end(&self, round: usize) {
        self.answers[round].fetch_sub(1, Ordering::Relaxed);
    }

    /// Ends a round; whether there is anything left of the one before it.
    fn has_old(&self) -> bool {
        let ended = self.round.fetch_add(1, Ordering::Relaxed);
        let before = ended.wrapping_add(self.answers.len() - 1) % self.answers.len();
        self.answers[before].load(Ordering::Relaxed) > 0
    }
}

/// A call from its headers to the last byte of its answer.
struct UnderWay(Arc<Calls>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// Answers the calls of one connection.
#[derive(Clone)]
pub(crate) struct Answerer {
    services: Arc<Services>,
    peer: Peer,
    calls: Arc<Calls>,
    request_timeout: Duration,
}

impl Answerer {
    pub(crate) fn new(
        services: Arc<Services>,
        peer: Peer,
        calls: &Arc<Calls>,
        request_timeout: Duration,
    ) -> Self {
        Self { services, peer, calls: Arc::clone(calls), request_timeout }
    }
}

impl hyper::service::Service<Request<Incoming>> for Answerer {
    type Response = Response<Counted>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let call = self.calls.begin();
        let deadline = deadline(request.headers());
        let arriving = |body| Arriving { body, timeout: self.request_timeout, late: None };
        let mut request = request.map(|body| Body::new(arriving(body)));
        request.extensions_mut().insert(self.peer.clone());
        let (answer, pass) = self.services.answer(request);
        Box::pin(async move {
            let response = match deadline {
                None => answer.await?,
                Some(time) => match tokio::time::timeout(time, answer).await {
                    Ok(response) => response?,
                    Err(_) => Status::deadline_exceeded("the caller's deadline passed").into_http(),
                },
            };
            Ok(response.map(|body| Counted { body, call, pass }))
        })
    }
}

/// A body of an answer; its call is over when this and all parts are dropped.
pub(crate) struct Counted {
    body: Body,
    call: UnderWay,
    /// Goes with the first part.
    pass: Option<Arc<Pass>>,
}

/// A part of an answer, which HTTP/2 keeps until the client lets it be sent: so
/// long the call is under way, and has its places.
struct Part {
    bytes: Bytes,
    call: UnderWay,
    round: usize,
    _pass: Option<Arc<Pass>>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.call.0.unread.end(self.round);
    }
}

impl Counted {
    fn part(&mut self, bytes: Bytes) -> Bytes {
        let call = self.call.0.begin();
        let round = call.0.unread.begin();
        Bytes::from_owner(Part { bytes, call, round, _pass: self.pass.take() })
    }
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        Poll::Ready(frame.map(|frame| Ok(frame?.map_data(|bytes| self.part(bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A request's body that must be there whole in time: a call that is never
/// finished does not wait for ever.
struct Arriving<Inner = Incoming> {
    body: Inner,
    timeout: Duration,
    /// Begins when there is first something to wait for.
    late: Option<Pin<Box<Sleep>>>,
}

impl<Inner> HttpBody for Arriving<Inner>
where
    Inner: HttpBody<Data = Bytes> + Unpin,
    Inner::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let timeout = self.timeout;
        let late = self.late.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        late.as_mut().poll(context).map(|()| {
            let message = format!("the request was not there whole within {timeout:?}");
            Some(Err(Status::deadline_exceeded(message).into()))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// How long the caller waits for an answer; none when he does not say.
///
/// # Source
/// gRPC over HTTP/2, `Timeout`: up to eight digits and a unit.
fn deadline(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(DEADLINE)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3_600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    #[test]
    fn deadlines_are_read_as_grpc_writes_them() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(DEADLINE, text.parse().unwrap());
            deadline(&headers)
        };
        for (text, time) in [
            ("5S", Duration::from_secs(5)),
            ("2H", Duration::from_secs(7_200)),
            ("3M", Duration::from_secs(180)),
            ("99999999m", Duration::from_millis(99_999_999)),
            ("7u", Duration::from_micros(7)),
            ("1n", Duration::from_nanos(1)),
        ] {
            assert_eq!(read(text), Some(time), "{text}");
        }
        for text in ["", "S", "5", "5s", "-1S", "+1S", "123456789S", "1 S", "5SS"] {
            assert_eq!(read(text), None, "{text}");
        }
        assert_eq!(deadline(&HeaderMap::new()), None);
    }

    /// Gives these frames and then waits for ever.
    struct Stalling(VecDeque<&'static [u8]>);

    impl HttpBody for Stalling {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.0.pop_front() {
                Some(bytes) => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(bytes))))),
                None => Poll::Pending,
            }
        }
    }

    #[tokio::test]
    async fn a_request_that_stalls_is_refused_and_says_why() {
        let timeout = Duration::from_millis(10);
        let body = Stalling([&b"ab"[..], b"c"].into());
        let mut body = Arriving { body, timeout, late: None };
        let mut next = async || std::future::poll_fn(|c| Pin::new(&mut body).poll_frame(c)).await;
        assert!(next().await.unwrap().is_ok());
        assert!(next().await.unwrap().is_ok());
        let error = next().await.unwrap().unwrap_err();
        let status = error.downcast_ref::<Status>().unwrap();
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
        assert!(status.message().contains("10ms"), "{status}");
    }

    #[test]
    fn what_was_not_read_in_the_round_before_is_old() {
        let unread = Unread::default();
        for _ in 0..4 {
            let read = unread.begin();
            assert!(!unread.has_old());
            unread.end(read);
            let late = unread.begin();
            assert!(!unread.has_old() && unread.has_old(), "a whole round and a part of one");
            unread.end(late);
            assert!(!unread.has_old());
        }
    }

    #[tokio::test]
    async fn an_answer_is_unread_and_its_call_under_way_until_its_bytes_are_dropped() {
        let calls = Arc::new(Calls::default());
        let body = Body::new(Stalling([&b"ab"[..]].into()));
        let mut body = Counted { body, call: calls.begin(), pass: None };
        let frame = std::future::poll_fn(|c| Pin::new(&mut body).poll_frame(c)).await;
        let bytes = frame.unwrap().unwrap().into_data().unwrap();
        drop(body);
        assert_eq!(&bytes[..], b"ab");
        calls.unread(Duration::from_millis(1)).await;
        let under_way =
            || calls.begun.load(Ordering::Relaxed) - calls.ended.load(Ordering::Relaxed);
        assert_eq!(under_way(), 1);
        drop(bytes);
        assert_eq!(under_way(), 0);
        let unread = calls.unread(Duration::from_millis(1));
        assert!(tokio::time::timeout(Duration::from_millis(20), unread).await.is_err());
    }

    #[tokio::test]
    async fn calls_under_way_are_not_idle() {
        let calls = Arc::new(Calls::default());
        let call = calls.begin();
        let time = Duration::from_millis(1);
        let idle = tokio::time::timeout(Duration::from_millis(20), calls.idle(time)).await;
        assert!(idle.is_err());
        drop(call);
        calls.idle(time).await;
    }
}
