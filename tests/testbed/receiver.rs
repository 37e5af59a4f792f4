//! Stands in for a chat: takes down what is posted, and answers as Slack does.

use std::io::Write as _;
use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

/// Takes down every JSON body that is posted.
#[derive(Clone, Debug)]
pub struct Receiver {
    url: String,
    posts: Arc<Mutex<Vec<Value>>>,
}

impl Receiver {
    /// One of a test's own, for as long as the process lives.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let posts: Arc<Mutex<Vec<Value>>> = Arc::default();
        let kept = posts.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                let Some(body) = read(&mut stream) else { continue };
                let count = {
                    let mut posts = kept.lock().unwrap_or_else(PoisonError::into_inner);
                    posts.extend(serde_json::from_slice(&body).ok());
                    posts.len()
                };
                let answer = format!(r#"{{"ok":true,"channel":"C1","ts":"1700000000.{count:06}"}}"#);
                let _ = write!(
                    stream,
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{answer}",
                    answer.len()
                );
            }
        });
        Self { url, posts }
    }

    /// Its address.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// What was posted so far.
    pub fn posts(&self) -> Vec<Value> {
        self.posts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The body of one request.
fn read(stream: &mut impl std::io::Read) -> Option<Vec<u8>> {
    let (mut all, mut part) = (Vec::new(), [0; 8192]);
    loop {
        let count = stream.read(&mut part).ok().filter(|count| *count > 0)?;
        all.extend_from_slice(part.get(..count)?);
        let Some(end) = all.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(all.get(..end)?).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        let length: usize = length.unwrap_or(0);
        if all.len() >= end + 4 + length {
            return Some(all.get(end + 4..)?.to_vec());
        }
    }
}
