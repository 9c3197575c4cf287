//! Statistics, page by page.

use key_server_proto::v1::{GetStatsRequest, GetStatsResponse};

use crate::connect::Server;
use crate::failure::Failure;

/// Whether the next page is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Page,
    Stop,
}

/// Hands out one page after the other until the last, or until `on_page` stops.
///
/// # Errors
/// Those of the server and of `on_page`; also when the server answers with the
/// page it was asked to go on from.
pub(crate) fn each(
    server: &mut Server,
    mut request: GetStatsRequest,
    mut on_page: impl FnMut(GetStatsResponse) -> Result<Next, Failure>,
) -> Result<(), Failure> {
    loop {
        let page = server.stats(request.clone())?;
        let token = page.next_page_token.clone();
        let next = on_page(page)?;
        if token.is_empty() || next == Next::Stop {
            return Ok(());
        }
        if token == request.page_token {
            return Err(Failure::no("the server repeats a page of its statistics"));
        }
        request.page_token = token;
    }
}

/// Collects rows up to `rows_max`; answers them and whether there are more.
///
/// # Errors
/// As [`each`].
pub(crate) fn rows<Row>(
    server: &mut Server,
    request: GetStatsRequest,
    rows_max: Option<usize>,
    of_page: impl Fn(GetStatsResponse) -> Vec<Row>,
) -> Result<(Vec<Row>, bool), Failure> {
    let (mut rows, mut more) = (Vec::new(), false);
    let rows_max = rows_max.unwrap_or(usize::MAX);
    each(server, request, |page| {
        let is_last = page.next_page_token.is_empty();
        rows.extend(of_page(page));
        more = rows.len() > rows_max || (rows.len() == rows_max && !is_last);
        Ok(if rows.len() < rows_max { Next::Page } else { Next::Stop })
    })?;
    rows.truncate(rows_max);
    Ok((rows, more))
}
