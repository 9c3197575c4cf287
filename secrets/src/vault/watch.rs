//! Whether somebody else wrote.

use std::sync::Arc;
use std::time::Duration;

use super::each::{Pace, each};
use super::kv::Found;
use super::seen::Name;
use super::{KvVersion, Shared, entry};
use crate::SecretStoreError;

/// At most 500 requests a second look for changes, a few at a time.
const WATCH_EVERY: Duration = Duration::from_millis(2);
const WATCH_CONCURRENCY: usize = 4;

impl Shared {
    pub(super) async fn has_changed(self: &Arc<Self>) -> Result<bool, SecretStoreError> {
        if !self.seen().is_loaded {
            return Ok(true);
        }
        let names = self.kv.list().await?;
        if !self.seen().has_exactly(&names) {
            return Ok(true);
        }
        let version = self.kv.version().await?;
        let look = |name: Name| {
            let shared = Arc::clone(self);
            async move { shared.entry_changed(version, &name).await }
        };
        let pace = Pace {
            doing: "compared",
            concurrency: WATCH_CONCURRENCY.min(self.settings.concurrency),
            every: Some(WATCH_EVERY),
        };
        let changed = each(pace, names, look, |changed| *changed).await?;
        Ok(changed.contains(&true))
    }

    async fn entry_changed(
        &self,
        version: KvVersion,
        name: &str,
    ) -> Result<bool, SecretStoreError> {
        let now = match version {
            KvVersion::V2 => {
                let mark = self.kv.mark(name).await?;
                let known = self.seen().get(name).cloned();
                if known.as_ref().map(|known| &known.mark) != mark.as_ref() {
                    return Ok(true);
                }
                // Vault deletes it by itself at a time that its clock says.
                let will_end = known.filter(|known| known.key.is_some() && known.mark.ends());
                return match will_end {
                    Some(_) => Ok(!matches!(self.kv.read(name).await?, Found::Key(..))),
                    None => Ok(false),
                };
            }
            KvVersion::V1 => match self.kv.read(name).await? {
                Found::Key(_, key) => Some((key.id(), entry::digest(&key))),
                Found::Deleted(_) => None,
                Found::Broken(..) => return Ok(true),
            },
        };
        Ok(self.seen().get(name).and_then(|known| known.key) != now)
    }
}
