//! What the server refused, in words and as an exit code.

use std::path::Path;

use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::failure::{Exit, Failure};
use crate::output::time;

/// Reasons whose words may end with a policy, in lines to be pasted; all other
/// words stay one line, so that nobody forges another.
const WITH_POLICY: [&str; 2] = ["STORE_DENIED", "KEYS_NOT_LOADED"];

/// The failure that a gRPC status stands for.
pub(crate) fn failure(status: &Status, socket: &Path) -> Failure {
    let info = status.get_details_error_info();
    let exit = exit(status.code(), info.is_some());
    let failure = match (exit, status.message()) {
        (Exit::Unreachable, message) => {
            Failure::new(exit, format!("the connection to {} broke: {message}", socket.display()))
        }
        (_, "") => Failure::new(exit, format!("the server refused: {}", status.code())),
        (_, message) if info.as_ref().is_some_and(|info| WITH_POLICY.contains(&&*info.reason)) => {
            Failure::of_lines(exit, message)
        }
        (_, message) => Failure::new(exit, message),
    };
    let failure = match info {
        Some(info) => failure.detail(format!("reason {} ({:?})", info.reason, status.code())),
        None => failure,
    };
    match status.get_details_retry_info().and_then(|retry| retry.retry_delay) {
        Some(delay) => failure.hint(format!("try again in {}", time::wait(delay))),
        None => failure,
    }
}

/// A status without our details was made by the transport, not by the server.
fn exit(code: Code, is_ours: bool) -> Exit {
    match code {
        Code::InvalidArgument => Exit::Usage,
        Code::Unavailable | Code::Unknown if !is_ours => Exit::Unreachable,
        _ => Exit::No,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic_types::ErrorDetails;

    use super::*;

    fn of(code: Code, details: &ErrorDetails) -> Failure {
        failure(&Status::with_error_details(code, "in words", details.clone()), Path::new("/k"))
    }

    #[test]
    fn refusals_show_their_reason_and_when_to_come_again() {
        let mut details = ErrorDetails::with_error_info("SESSIONS_FULL", "keyserver.v1", []);
        details.set_retry_info(Some(Duration::from_millis(1_200)));
        let failure = of(Code::ResourceExhausted, &details);
        assert_eq!(failure.exit, Exit::No);
        assert_eq!(failure.message, "in words");
        assert_eq!(failure.details, ["reason SESSIONS_FULL (ResourceExhausted)"]);
        assert_eq!(failure.hints, ["try again in 2s"]);
    }

    #[test]
    fn a_policy_in_a_refusal_comes_in_lines_that_can_be_pasted() {
        let details = ErrorDetails::with_error_info("STORE_DENIED", "keyserver.v1", []);
        let message = "no permission; give it this policy:\n\npath \"a\" {}\npath \"b\" {}\n";
        let status = Status::with_error_details(Code::Unavailable, message, details);
        let failure = failure(&status, Path::new("/k"));
        assert_eq!(failure.message, "no permission; give it this policy:");
        let reason = "reason STORE_DENIED (Unavailable)";
        assert_eq!(failure.details, ["path \"a\" {}", "path \"b\" {}", reason]);
        let theirs = Status::with_error_details(Code::Internal, message, ErrorDetails::new());
        assert_eq!(super::failure(&theirs, Path::new("/k")).message, message);
    }

    #[test]
    fn exit_codes_follow_what_the_caller_can_do() {
        let ours = ErrorDetails::with_error_info("ANY", "keyserver.v1", []);
        let theirs = ErrorDetails::new();
        for (code, details, exit) in [
            (Code::PermissionDenied, &ours, Exit::No),
            (Code::NotFound, &ours, Exit::No),
            (Code::InvalidArgument, &ours, Exit::Usage),
            (Code::Unavailable, &ours, Exit::No),
            (Code::Unavailable, &theirs, Exit::Unreachable),
            (Code::Unknown, &theirs, Exit::Unreachable),
            (Code::Internal, &theirs, Exit::No),
        ] {
            assert_eq!(of(code, details).exit, exit, "{code:?}");
        }
    }
}
