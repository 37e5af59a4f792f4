//! Whether one address is well.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use async_trait::async_trait;
use reqwest::Url;
use rollback_core::trigger::{Health, HealthProbe};
use rollback_core::{Error, Result};
use tokio::net::lookup_host;
use tokio::time::{Instant, timeout};

use super::http::{HttpCheck, HttpProbe, Scheme};
use super::{connect, invalid, refuse_no_time, within};

/// Asks one address, which is one instance: named as the address is, without credentials, query and fragment.
///
/// An address whose name cannot be resolved is [`Unknown`](Health::Unknown): that tells of the names, and not of it.
#[derive(Clone)]
pub struct AddressProbe {
    name: String,
    host: String,
    port: u16,
    timeout: Duration,
    /// How it is asked over HTTP; else it has to take a connection.
    http: Option<(HttpProbe, Url)>,
}

impl AddressProbe {
    /// One that asks an address such as `https://web.shop.svc/healthz`. A user and a password in it are sent, and shown
    /// nowhere.
    ///
    /// # Errors
    /// `InvalidConfig` for what is no address of HTTP, and a check that cannot be made, or that has a path of its own.
    pub fn http(url: &str, check: HttpCheck) -> Result<Self> {
        let unusable = |why: &str| {
            invalid(format!("the address of a probe cannot be used: {why}"))
                .with_hint("write it as https://web.shop.svc/healthz")
        };
        // What the parser says is not repeated, nor is the text: it may hold a password.
        let url = Url::parse(url).map_err(|_| unusable("it is no URL"))?;
        let scheme = match url.scheme() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return Err(unusable("only http and https servers can be asked")),
        };
        if check.path != "/" {
            return Err(unusable("its path is in the check, and belongs into the address"));
        }
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return Err(unusable("it names no host"));
        };
        let mut shown = url.clone();
        shown.set_query(None);
        shown.set_fragment(None);
        if shown.set_username("").is_err() || shown.set_password(None).is_err() {
            return Err(unusable("it names no host"));
        }
        Ok(Self {
            name: shown.to_string(),
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
            timeout: check.timeout,
            http: Some((HttpProbe::new(HttpCheck { scheme, ..check })?, url)),
        })
    }

    /// One that connects to an address such as `db.shop.svc:5432`, and sends nothing.
    ///
    /// # Errors
    /// `InvalidConfig` for what is no host and port, or for no time.
    pub fn tcp(address: &str, timeout: Duration) -> Result<Self> {
        refuse_no_time(timeout)?;
        let (host, port) = host_and_port(address).ok_or_else(unusable_for_tcp)?;
        Ok(Self { name: address.to_owned(), host: host.to_owned(), port, timeout, http: None })
    }

    async fn ask(&self, found: &[SocketAddr]) -> Health {
        match &self.http {
            Some((http, url)) => http.ask(url.clone()).await,
            None => connect(found).await,
        }
    }
}

fn unusable_for_tcp() -> Error {
    invalid("the address of a probe cannot be used: it is no host and port")
        .with_hint("write it as db.shop.svc:5432, and an address of IPv6 as [fd00::2]:5432")
}

fn host_and_port(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port != 0)?;
    if let Some(host) = host.strip_prefix('[') {
        let host = host.strip_suffix(']')?;
        return host.parse::<Ipv6Addr>().is_ok().then_some((host, port));
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    (!host.is_empty() && host.chars().all(plain)).then_some((host, port))
}

#[async_trait]
impl HealthProbe for AddressProbe {
    async fn probe(&self) -> Result<BTreeMap<String, Health>> {
        let begin = Instant::now();
        // Apart from the exchange, which would not tell a name that takes long from a server that does.
        let found = timeout(self.timeout, lookup_host((self.host.as_str(), self.port))).await;
        let health = match found {
            Err(_) => Health::Unknown(format!("its name was not resolved within {:?}", self.timeout)),
            Ok(Err(error)) => Health::Unknown(format!("its name cannot be resolved: {error}")),
            Ok(Ok(found)) => {
                let found: Vec<SocketAddr> = found.collect();
                within(self.timeout, begin, self.ask(&found)).await
            }
        };
        Ok(BTreeMap::from([(self.name.clone(), health)]))
    }
}

impl fmt::Debug for AddressProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddressProbe")
            .field("name", &self.name)
            .field("timeout", &self.timeout)
            .field("http", &self.http.as_ref().map(|(http, _)| http))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use rollback_core::ErrorKind;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// A server that answers every request so, and what it was asked.
    async fn server(answer: &str) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (answer, log) = (answer.to_owned(), asked.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = Vec::new();
                let mut buffer = [0; 1024];
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read(&mut buffer).await {
                        Ok(0) | Err(_) => break,
                        Ok(count) => head.extend_from_slice(&buffer[..count]),
                    }
                }
                log.lock().unwrap().push(String::from_utf8_lossy(&head).into_owned());
                // A client that has seen enough goes.
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        (address, asked)
    }

    fn answer(status: &str, body: &str) -> String {
        format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    async fn health(probe: &AddressProbe) -> Health {
        let mut all: Vec<_> = probe.probe().await.unwrap().into_iter().collect();
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0).1
    }

    async fn health_of(answer: &str, check: HttpCheck) -> Health {
        let (address, _) = server(answer).await;
        health(&AddressProbe::http(&format!("http://{address}"), check).unwrap()).await
    }

    /// An address where nothing listens.
    async fn free() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    }

    fn assert_failed(health: &Health, part: &str) {
        assert!(matches!(health, Health::Failed(why) if why.contains(part)), "{health:?} is not {part:?}");
    }

    #[tokio::test]
    async fn an_address_is_asked_as_it_says_and_its_secrets_are_shown_nowhere() {
        let (address, asked) = server(&answer("200 OK", "all is ready")).await;
        let mut check = HttpCheck { body: Some("ready".into()), ..HttpCheck::default() };
        check.headers.insert("X-Token".into(), "hunter3".into());
        let url = format!("http://ann:hunter2@{address}/healthz?key=hunter4#x");
        let probe = AddressProbe::http(&url, check).unwrap();
        let found = probe.probe().await.unwrap();
        assert_eq!(found, BTreeMap::from([(format!("http://{address}/healthz"), Health::Healthy)]));
        let shown = format!("{probe:?}");
        assert!(!shown.contains("hunter") && !shown.contains("ann"), "{shown}");
        assert_eq!(probe.probe().await.unwrap(), found);
        let asked = asked.lock().unwrap().clone();
        assert_eq!(asked.len(), 2);
        for head in asked {
            assert!(head.starts_with("GET /healthz?key=hunter4 HTTP/1.1\r\n"), "{head}");
            let lower = head.to_ascii_lowercase();
            for line in
                ["user-agent: rollback-probe", "x-token: hunter3", "authorization: basic yw5uomh1bnrlcji="]
            {
                assert!(lower.contains(&format!("\r\n{line}\r\n")), "{head}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_good_answer_is_a_failure_and_says_why() {
        let plain = HttpCheck::default;
        assert_failed(&health_of(&answer("500 Internal Server Error", ""), plain()).await, "answered 500");
        assert_failed(&health_of(&answer("404 Not Found", ""), plain()).await, "answered 404");
        assert_failed(&health_of("", plain()).await, "does not answer properly");
        assert_failed(&health_of("what?\r\n\r\n", plain()).await, "does not answer properly");
        let narrow = HttpCheck { statuses: 404..=404, ..plain() };
        assert_eq!(health_of(&answer("404 Not Found", ""), narrow.clone()).await, Health::Healthy);
        assert_failed(&health_of(&answer("200 OK", ""), narrow).await, "answered 200");

        let ready = HttpCheck { body: Some("ready".into()), ..plain() };
        assert_failed(&health_of(&answer("200 OK", "not yet"), ready.clone()).await, "without the text");
        let late = format!("{}ready", " ".repeat(64 * 1024));
        assert_failed(&health_of(&answer("200 OK", &late), ready.clone()).await, "without the text");
        let cut = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nready";
        assert_failed(&health_of(cut, ready).await, "does not answer properly");
    }

    #[tokio::test]
    async fn a_redirect_is_a_failure_and_is_not_followed() {
        let (elsewhere, asked) = server(&answer("200 OK", "")).await;
        for status in ["301 Moved Permanently", "302 Found", "307 Temporary Redirect"] {
            let redirect =
                format!("HTTP/1.1 {status}\r\nlocation: http://{elsewhere}/\r\ncontent-length: 0\r\n\r\n");
            assert_failed(&health_of(&redirect, HttpCheck::default()).await, "redirects are not followed");
        }
        assert!(asked.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn one_that_does_not_answer_in_time_or_at_all_has_failed() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let timeout = Duration::from_millis(100);
        let check = HttpCheck { timeout, ..HttpCheck::default() };
        let url = format!("http://{}", silent.local_addr().unwrap());
        let health_of_silent = health(&AddressProbe::http(&url, check.clone()).unwrap()).await;
        assert_failed(&health_of_silent, "no answer within 100ms");
        let url = format!("http://{}", free().await);
        assert_failed(&health(&AddressProbe::http(&url, check).unwrap()).await, "refused");
    }

    #[tokio::test]
    async fn by_tcp_one_that_takes_the_connection_is_well() {
        let (address, asked) = server("").await;
        let limit = Duration::from_secs(2);
        for name in [address.to_string(), format!("localhost:{}", address.port())] {
            let probe = AddressProbe::tcp(&name, limit).unwrap();
            assert_eq!(probe.probe().await.unwrap(), BTreeMap::from([(name, Health::Healthy)]));
        }
        let refused = AddressProbe::tcp(&free().await.to_string(), limit).unwrap();
        assert_failed(&health(&refused).await, "refused");
        assert!(asked.lock().unwrap().iter().all(String::is_empty));
    }

    #[tokio::test]
    async fn a_name_that_is_not_resolved_is_unknown() {
        let http = AddressProbe::http("http://no-such-host.invalid/", HttpCheck::default()).unwrap();
        let tcp = AddressProbe::tcp("no-such-host.invalid:80", Duration::from_secs(2)).unwrap();
        for probe in [http, tcp] {
            let found = health(&probe).await;
            assert!(matches!(&found, Health::Unknown(why) if why.contains("resolved")), "{found:?}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_and_not_repeated() {
        let limit = Duration::from_secs(2);
        for address in
            ["", "hunter2", "hunter2:", "hunter2:0", ":80", "ann:hunter2@db:5432", "[hunter2]:80", "::1:80"]
        {
            let error = AddressProbe::tcp(address, limit).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{address}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
        assert!(AddressProbe::tcp("db:5432", Duration::ZERO).is_err());
        assert_eq!(host_and_port("[fd00::2]:5432"), Some(("fd00::2", 5432)));
        for url in ["", "hunter2", "ftp://ann:hunter2@p", "http://ann:hunter2@"] {
            let error = AddressProbe::http(url, HttpCheck::default()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{url}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
        let error = AddressProbe::http("http://p/", HttpCheck::new("/healthz")).unwrap_err();
        assert!(error.to_string().contains("path"), "{error}");
    }
}
