//! The token in use: kept alive while Vault allows it, got again when not.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Notify};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use super::http::Http;
use super::settings::{SignIn, VaultSettings};
use super::sign_in::{self, Granted};
use crate::private_file::FileMark;
use crate::{SecretKey, SecretStoreError};

/// How long to wait after a renewal that failed because Vault was away.
const RETRY_MAX: Duration = Duration::from_secs(30);
const RETRY_MIN: Duration = Duration::from_secs(1);

/// The token of one store.
pub(super) struct Tokens {
    sign_in: SignIn,
    is_wrapped: bool,
    lease: Mutex<Option<Lease>>,
    /// There is a new lease.
    changed: Notify,
}

/// A token to send with one request.
#[derive(Clone)]
pub(super) struct Token {
    /// None: the agent adds its own.
    pub(super) secret: Option<Arc<SecretKey>>,
    /// Which of the tokens since the start.
    number: u64,
}

struct Lease {
    token: Token,
    term: Option<Term>,
    origin: Option<Origin>,
}

/// Where a token that we were given came from.
struct Origin {
    /// What was given: the token, or what wrapped it.
    given: Arc<SecretKey>,
    file: Option<FileMark>,
}

/// How long a token lives.
struct Term {
    /// When to renew it, or to sign in again; none: neither is possible.
    due: Option<Instant>,
    ends: Instant,
    /// How long it lived when it was new.
    full: Duration,
    renewable: bool,
}

impl Tokens {
    pub(super) fn new(settings: &VaultSettings) -> Self {
        if let SignIn::Token(token) = &settings.sign_in {
            token.keep_in_ram();
        }
        Self {
            sign_in: settings.sign_in.clone(),
            is_wrapped: settings.token_is_wrapped,
            lease: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// The token for the next request: signs in when there is none, and
    /// renews it when that is due.
    pub(super) async fn get(&self, http: &Http) -> Result<Token, SecretStoreError> {
        let mut lease = self.lease.lock().await;
        if let Some(current) = &mut *lease
            && !self.file_changed(current)
        {
            if current.is_due() {
                self.prolong(http, current).await?;
            }
            return Ok(current.token.clone());
        }
        let number = lease.as_ref().map_or(0, |lease| lease.token.number + 1);
        match self.obtain(http, number).await {
            Ok(new) => Ok(self.install(lease.insert(new))),
            Err(error) => self.keep(lease.as_mut(), error),
        }
    }

    /// After Vault refused `used`: whether there is another token now, so
    /// that asking again makes sense.
    pub(super) async fn replace(
        &self,
        http: &Http,
        used: &Token,
    ) -> Result<bool, SecretStoreError> {
        let mut lease = self.lease.lock().await;
        let Some(current) = &mut *lease else {
            return Ok(true);
        };
        if current.token.number != used.number {
            return Ok(true);
        }
        let Some(secret) = &current.token.secret else {
            return Ok(false);
        };
        let number = used.number + 1;
        let lives = sign_in::look_up(http, secret).await?.is_some();
        let new = if let Some(given) = self.given_anew(current) {
            match self.accept(http, number, given, lives).await {
                Err(SecretStoreError::Denied(_)) if lives => return Ok(false),
                accepted => accepted?,
            }
        } else if lives || !self.can_log_in() {
            return Ok(false);
        } else {
            info!("Vault does not know the token any more; signing in again");
            self.obtain(http, number).await?
        };
        self.install(lease.insert(new));
        Ok(true)
    }

    /// Keeps the token alive, for ever.
    pub(super) async fn run_renewal(&self, http: &Http) {
        loop {
            match self.due().await {
                None => self.changed.notified().await,
                Some(due) => {
                    tokio::select! {
                        () = sleep_until(due) => {}
                        () = self.changed.notified() => continue,
                    }
                    if let Err(error) = self.get(http).await {
                        warn!(error = %error, "the token for Vault ended");
                        sleep(RETRY_MAX).await;
                    }
                }
            }
        }
    }

    /// How long the token still lives; none: for ever, not known, or there is
    /// none yet.
    pub(super) async fn time_left(&self) -> Option<Duration> {
        let lease = self.lease.lock().await;
        let term = lease.as_ref()?.term.as_ref()?;
        Some(term.ends.saturating_duration_since(Instant::now()))
    }

    async fn due(&self) -> Option<Instant> {
        self.lease.lock().await.as_ref()?.term.as_ref()?.due
    }

    fn install(&self, lease: &mut Lease) -> Token {
        self.changed.notify_one();
        lease.token.clone()
    }

    /// The token that we have, when the file's new one is of no use: perhaps
    /// it is just being written. It is not looked at again before it changes.
    fn keep(
        &self,
        lease: Option<&mut Lease>,
        error: SecretStoreError,
    ) -> Result<Token, SecretStoreError> {
        let (Some(lease), SignIn::TokenFile(path)) = (lease, &self.sign_in) else {
            return Err(error);
        };
        if !matches!(error, SecretStoreError::Unavailable(_))
            && let Some(origin) = &mut lease.origin
        {
            warn!(error = %error, "the new token is of no use; the old one is kept");
            origin.file = FileMark::of(path);
        }
        Ok(lease.token.clone())
    }

    fn can_log_in(&self) -> bool {
        !matches!(self.sign_in, SignIn::Token(_) | SignIn::TokenFile(_) | SignIn::Agent)
    }

    fn file_changed(&self, lease: &Lease) -> bool {
        let SignIn::TokenFile(path) = &self.sign_in else {
            return false;
        };
        // A file that is gone changes nothing: its token may still do.
        let known = lease.origin.as_ref().and_then(|origin| origin.file);
        FileMark::of(path).is_some_and(|now| Some(now) != known)
    }

    /// What the token file holds, if that is not what it held.
    fn given_anew(&self, lease: &Lease) -> Option<Origin> {
        let known = lease.origin.as_ref()?;
        let given = self.given().ok()??;
        (given.given.expose() != known.given.expose()).then_some(given)
    }

    /// The token that a person or an agent gives; none with other methods.
    fn given(&self) -> Result<Option<Origin>, SecretStoreError> {
        Ok(match &self.sign_in {
            SignIn::Token(token) => Some(Origin { given: Arc::clone(token), file: None }),
            SignIn::TokenFile(path) => {
                let file = FileMark::of(path);
                Some(Origin { given: Arc::new(sign_in::read_guarded(path)?), file })
            }
            _ => None,
        })
    }

    async fn obtain(&self, http: &Http, number: u64) -> Result<Lease, SecretStoreError> {
        if let SignIn::Agent = self.sign_in {
            let token = Token { secret: None, number };
            return Ok(Lease { token, term: None, origin: None });
        }
        if let Some(given) = self.given()? {
            // There is another one: the file was written anew.
            let has_other = number > 0;
            return self.accept(http, number, given, has_other).await;
        }
        let granted = sign_in::log_in(http, &self.sign_in).await?;
        debug!(method = self.sign_in.name(), "signed in to Vault");
        Ok(self.lease(granted, number, None))
    }

    /// Takes a token that was given. One that Vault does not answer for may be
    /// wrong, or may not look itself up: it does not take the place of another
    /// that lives.
    async fn accept(
        &self,
        http: &Http,
        number: u64,
        origin: Origin,
        has_other: bool,
    ) -> Result<Lease, SecretStoreError> {
        let granted = if self.is_wrapped {
            sign_in::unwrap(http, &origin.given).await?
        } else {
            match sign_in::look_up(http, &origin.given).await? {
                Some(granted) => granted,
                None if has_other => return Err(unknown(http)),
                None => Granted { token: Arc::clone(&origin.given), ttl: None, renewable: false },
            }
        };
        Ok(self.lease(granted, number, Some(origin)))
    }

    fn lease(&self, granted: Granted, number: u64, origin: Option<Origin>) -> Lease {
        granted.token.keep_in_ram();
        let term = granted.ttl.map(|ttl| Term::new(ttl, ttl, granted.renewable, self.can_log_in()));
        Lease { token: Token { secret: Some(granted.token), number }, term, origin }
    }

    /// Renews a token that is due, or signs in again. While the token lives, a
    /// failure is for later.
    async fn prolong(&self, http: &Http, lease: &mut Lease) -> Result<(), SecretStoreError> {
        let (Some(term), Some(secret)) = (&mut lease.term, lease.token.secret.clone()) else {
            return Ok(());
        };
        let renewed = match term.renewable {
            true => sign_in::renew(http, &secret).await,
            false => Ok(None),
        };
        let failed = match renewed {
            Ok(Some(Granted { ttl: Some(ttl), renewable, .. })) if self.is_worth(ttl, term) => {
                debug!(seconds = ttl.as_secs(), "renewed the token for Vault");
                *term = Term::new(ttl, term.full, renewable, self.can_log_in());
                return Ok(());
            }
            // A person has to give another token; until then this one does.
            Ok(_) if !self.can_log_in() => {
                warn!("Vault does not renew the token: give another before it ends");
                term.due = None;
                return Ok(());
            }
            Ok(_) => match self.obtain(http, lease.token.number + 1).await {
                Ok(new) => {
                    *lease = new;
                    self.changed.notify_one();
                    return Ok(());
                }
                Err(error) => error,
            },
            Err(error) => error,
        };
        let left = term.ends.saturating_duration_since(Instant::now());
        if left.is_zero() && self.can_log_in() {
            return Err(failed);
        }
        warn!(error = %failed, left_s = left.as_secs(), "the token for Vault cannot be renewed yet");
        term.due = Some(Instant::now() + (left / 3).clamp(RETRY_MIN, RETRY_MAX));
        Ok(())
    }

    /// Near its largest lifetime a token gets less and less: then a new one
    /// is better.
    fn is_worth(&self, ttl: Duration, term: &Term) -> bool {
        !self.can_log_in() || ttl * 2 >= term.full
    }
}

impl Lease {
    fn is_due(&self) -> bool {
        let due = self.term.as_ref().and_then(|term| term.due);
        due.is_some_and(|due| Instant::now() >= due)
    }
}

impl Term {
    fn new(ttl: Duration, full: Duration, renewable: bool, can_log_in: bool) -> Self {
        let now = Instant::now();
        let due = (renewable || can_log_in).then(|| now + share(ttl));
        Self { due, ends: now + ttl, full, renewable }
    }
}

fn unknown(http: &Http) -> SecretStoreError {
    SecretStoreError::Denied(format!(
        "Vault at {} does not know the token: it is mistyped, has ended or was revoked, or it may \
         not look itself up",
        http.address()
    ))
}

/// About two thirds of a lifetime, never the same for all nodes.
fn share(ttl: Duration) -> Duration {
    let jitter = getrandom::u32().unwrap_or(u32::MAX / 2);
    ttl.mul_f64(0.6 + 0.13 * f64::from(jitter) / f64::from(u32::MAX))
}
