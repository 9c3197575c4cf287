//! One request to Vault and its reply, within bounds.

use std::error::Error as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, ClientBuilder, Identity, Method, Response, Url};
use tracing::warn;
use zeroize::Zeroizing;

use super::settings::{VaultSettings, VaultTls, wrong};
use crate::private_file::{self, Guard};
use crate::{SecretKey, SecretStoreError};

/// The largest reply to anything but a list.
pub(super) const REPLY_BYTES_MAX: usize = 1 << 20;
/// The largest list of names.
pub(super) const LIST_BYTES_MAX: usize = 32 << 20;

const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
const NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");
const REQUEST: HeaderName = HeaderName::from_static("x-vault-request");

/// The way to one Vault.
pub(super) struct Http {
    client: Client,
    base: Url,
    /// The address as people wrote it.
    address: String,
    namespace: Option<HeaderValue>,
    timeout_ms: u128,
}

/// What to ask.
pub(super) struct Call {
    pub(super) method: Method,
    /// Below `/v1/`, its segments not yet escaped.
    pub(super) path: String,
    pub(super) query: Option<&'static str>,
    pub(super) body: Option<Zeroizing<Vec<u8>>>,
    pub(super) reply_bytes_max: usize,
}

impl Call {
    pub(super) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path.into(), None)
    }

    pub(super) fn list(path: impl Into<String>) -> Self {
        let mut call = Self::get(path);
        call.query = Some("list=true");
        call.reply_bytes_max = LIST_BYTES_MAX;
        call
    }

    pub(super) fn post(path: impl Into<String>, body: Zeroizing<Vec<u8>>) -> Self {
        Self::new(Method::POST, path.into(), Some(body))
    }

    pub(super) fn delete(path: impl Into<String>) -> Self {
        Self::new(Method::DELETE, path.into(), None)
    }

    fn new(method: Method, path: String, body: Option<Zeroizing<Vec<u8>>>) -> Self {
        Self { method, path, query: None, body, reply_bytes_max: REPLY_BYTES_MAX }
    }
}

/// What Vault answered.
pub(super) struct Reply {
    pub(super) status: u16,
    /// How long to wait before asking again, where it says so in seconds.
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Zeroizing<Vec<u8>>,
}

impl Http {
    /// Reads the files of `settings`; contacts nobody.
    pub(super) fn new(settings: &VaultSettings) -> Result<Self, SecretStoreError> {
        let (base, socket) = parse(&settings.address)?;
        // reqwest wants a provider even where no TLS is spoken; that another
        // one is installed already is fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let builder = Client::builder()
            .redirect(Policy::none())
            .no_proxy()
            .referer(false)
            .timeout(settings.request_timeout)
            .connect_timeout(settings.request_timeout)
            .pool_max_idle_per_host(settings.concurrency);
        // Without TLS no authorities: they would be read from the system for
        // nothing, and may not be there.
        let builder = match (&socket, base.scheme()) {
            (Some(socket), _) => builder.unix_socket(socket.as_path()).tls_certs_only([]),
            (None, "https") => with_tls(builder, &settings.tls, &settings.address)?,
            (None, _) => builder.tls_certs_only([]),
        };
        let client = builder.build().map_err(|error| wrong(&innermost(&error)))?;
        let namespace = settings.namespace.as_deref().filter(|name| !name.is_empty());
        let namespace = namespace.map(HeaderValue::from_str).transpose();
        Ok(Self {
            client,
            base,
            address: settings.address.clone(),
            namespace: namespace.map_err(|_| wrong("the namespace is not plain text"))?,
            timeout_ms: settings.request_timeout.as_millis(),
        })
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Asks once; a redirect within the same scheme, host and port is
    /// followed once.
    ///
    /// # Errors
    /// `Unavailable` when no whole reply came in time; `Denied` for a redirect
    /// elsewhere. Any status is a reply.
    pub(super) async fn send(
        &self,
        call: &Call,
        token: Option<&SecretKey>,
    ) -> Result<Reply, SecretStoreError> {
        let url = self.url(call);
        let response = self.send_to(url.clone(), call, token).await?;
        let response = match self.redirect(&url, &response)? {
            Some(url) => self.send_to(url, call, token).await?,
            None => response,
        };
        if response.status().is_redirection() {
            return Err(self.unavailable("it redirects in a circle; look at its api_addr"));
        }
        self.read(response, call.reply_bytes_max).await
    }

    async fn send_to(
        &self,
        url: Url,
        call: &Call,
        token: Option<&SecretKey>,
    ) -> Result<Response, SecretStoreError> {
        let mut request =
            self.client.request(call.method.clone(), url).headers(self.headers(token)?);
        if let Some(body) = &call.body {
            request = request.header("content-type", "application/json").body(body.to_vec());
        }
        request.send().await.map_err(|error| self.transport(&error))
    }

    fn headers(&self, token: Option<&SecretKey>) -> Result<HeaderMap, SecretStoreError> {
        let mut headers = HeaderMap::with_capacity(3);
        headers.insert(REQUEST, HeaderValue::from_static("true"));
        if let Some(namespace) = &self.namespace {
            headers.insert(NAMESPACE, namespace.clone());
        }
        if let Some(token) = token {
            let mut value = HeaderValue::from_str(token.expose())
                .map_err(|_| wrong("the token has characters in it that no token has"))?;
            value.set_sensitive(true);
            headers.insert(TOKEN, value);
        }
        Ok(headers)
    }

    fn url(&self, call: &Call) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("v1").extend(call.path.split('/'));
        }
        url.set_query(call.query);
        url
    }

    fn redirect(&self, from: &Url, response: &Response) -> Result<Option<Url>, SecretStoreError> {
        if !response.status().is_redirection() {
            return Ok(None);
        }
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let Some(to) = location.and_then(|location| from.join(location).ok()) else {
            return Err(self.unavailable("it redirects to nowhere; look at its api_addr"));
        };
        if to.origin() == from.origin() {
            return Ok(Some(to));
        }
        Err(SecretStoreError::Denied(format!(
            "Vault at {} redirects to {}, which was not followed so that the token does not go \
             there: if that is the active node of this cluster, set VAULT_ADDR to it or to the \
             cluster's load balancer; if not, find out who answers at this address",
            self.address,
            to.origin().ascii_serialization(),
        )))
    }

    async fn read(
        &self,
        mut response: Response,
        bytes_max: usize,
    ) -> Result<Reply, SecretStoreError> {
        let status = response.status().as_u16();
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = retry_after.and_then(|text| text.parse().ok()).map(Duration::from_secs);
        let expected =
            usize::try_from(response.content_length().unwrap_or(0)).unwrap_or(usize::MAX);
        let mut body = Zeroizing::new(Vec::with_capacity(expected.min(bytes_max)));
        while let Some(chunk) = response.chunk().await.map_err(|error| self.transport(&error))? {
            if body.len() + chunk.len() > bytes_max {
                return Err(self.unavailable(&format!(
                    "its reply is larger than {} KiB, which no reply of Vault is; find out who \
                     answers at this address",
                    bytes_max >> 10
                )));
            }
            grow(&mut body, chunk.len());
            body.extend_from_slice(&chunk);
        }
        Ok(Reply { status, retry_after, body })
    }

    fn transport(&self, error: &reqwest::Error) -> SecretStoreError {
        if error.is_timeout() {
            return self.unavailable(&format!(
                "no answer within {} ms; see whether it runs, is overloaded, or is cut off from \
                 here (KEY_SERVER_VAULT_TIMEOUT sets how long to wait)",
                self.timeout_ms
            ));
        }
        let cause = innermost(error);
        let advice = match () {
            () if cause.contains("certificate") => {
                "; if it has an authority of its own, set VAULT_CACERT to its PEM file"
            }
            () if error.is_connect() => "; see whether it runs and VAULT_ADDR is right",
            () => "",
        };
        self.unavailable(&format!("{cause}{advice}"))
    }

    pub(super) fn unavailable(&self, what: &str) -> SecretStoreError {
        SecretStoreError::Unavailable(format!("Vault at {} is away: {what}", self.address))
    }
}

/// Makes room for `more` bytes; what was there is wiped when it moves.
fn grow(body: &mut Zeroizing<Vec<u8>>, more: usize) {
    if body.capacity() - body.len() >= more {
        return;
    }
    let mut larger = Zeroizing::new(Vec::with_capacity((body.len() + more) * 2));
    larger.extend_from_slice(body);
    *body = larger;
}

/// The base of all URLs, and the socket when it is one.
fn parse(address: &str) -> Result<(Url, Option<PathBuf>), SecretStoreError> {
    let not_an_address = || {
        wrong(
            "VAULT_ADDR is not an address as in https://vault.example:8200 or unix:///run/vault.sock",
        )
    };
    if let Some(path) = address.strip_prefix("unix://") {
        let base = Url::parse("http://localhost/").map_err(|_| not_an_address())?;
        return match Path::new(path).is_absolute() {
            true => Ok((base, Some(path.into()))),
            false => Err(not_an_address()),
        };
    }
    let url = Url::parse(address).map_err(|_| not_an_address())?;
    let is_plain = url.has_host()
        && matches!(url.scheme(), "http" | "https")
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if !is_plain {
        return Err(not_an_address());
    }
    let is_here = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    if url.scheme() == "http" && !is_here {
        warn!(
            address,
            "Vault is asked without TLS: whoever is on the way reads every key; use https"
        );
    }
    Ok((url, None))
}

fn with_tls(
    builder: ClientBuilder,
    tls: &VaultTls,
    address: &str,
) -> Result<ClientBuilder, SecretStoreError> {
    let mut builder = builder.tls_backend_rustls().tls_danger_accept_invalid_certs(tls.skip_verify);
    if tls.skip_verify {
        warn!(
            address,
            "VAULT_SKIP_VERIFY is set: any certificate is believed, so whoever is on the way gets \
             every key; set VAULT_CACERT instead"
        );
    }
    if let Some(path) = &tls.ca_cert {
        let pem =
            fs::read(path).map_err(|error| SecretStoreError::from_io("read", path, &error))?;
        let certificates = Certificate::from_pem_bundle(&pem).unwrap_or_default();
        if certificates.is_empty() {
            return Err(not_pem(path, "certificate"));
        }
        builder = builder.tls_certs_only(certificates);
    }
    if let (Some(cert), Some(key)) = (&tls.client_cert, &tls.client_key) {
        builder = builder.identity(identity(cert, key)?);
    }
    Ok(builder)
}

fn identity(cert: &Path, key: &Path) -> Result<Identity, SecretStoreError> {
    let missing = |path: &Path| {
        SecretStoreError::Denied(format!(
            "{} does not exist: put the file there, or correct the setting that names it",
            path.display()
        ))
    };
    let mut pem = private_file::read(key, Guard::Directory)?.ok_or_else(|| missing(key))?;
    let chain = fs::read(cert).map_err(|error| SecretStoreError::from_io("read", cert, &error))?;
    grow(&mut pem, chain.len() + 1);
    pem.push(b'\n');
    pem.extend_from_slice(&chain);
    Identity::from_pem(&pem).map_err(|_| not_pem(cert, "certificate with the key beside it"))
}

fn not_pem(path: &Path, what: &str) -> SecretStoreError {
    SecretStoreError::Denied(format!("{} holds no {what} in PEM form", path.display()))
}

/// The words of the first cause: the outer errors only say that there is one.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause = error.source();
    let mut text = String::from("the request failed");
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::SignIn;

    fn http(address: &str) -> Result<Http, SecretStoreError> {
        Http::new(&VaultSettings::new(address, SignIn::Agent))
    }

    #[test]
    fn addresses_are_http_https_or_a_socket() {
        for good in
            ["http://127.0.0.1:8200", "http://[::1]:8200/", "http://localhost", "unix:///run/vault"]
        {
            assert!(http(good).is_ok(), "{good}");
        }
        for wrong in [
            "127.0.0.1:8200",
            "ftp://vault",
            "http://me:fake-pass@vault",
            "http://vault/?a=b",
            "unix://run/vault",
            "",
        ] {
            let error = http(wrong).err().map(|error| error.to_string());
            assert!(error.is_some_and(|text| text.contains("VAULT_ADDR")), "{wrong}");
        }
    }

    #[test]
    fn names_are_escaped_and_a_path_of_the_address_is_kept() {
        let call = Call::list("secret/metadata/team a/100%/ä");
        let url = |address| http(address).unwrap().url(&call).to_string();
        assert_eq!(
            url("http://localhost:8200"),
            "http://localhost:8200/v1/secret/metadata/team%20a/100%25/%C3%A4?list=true"
        );
        assert_eq!(
            url("http://localhost/vault/"),
            "http://localhost/vault/v1/secret/metadata/team%20a/100%25/%C3%A4?list=true"
        );
    }
}
