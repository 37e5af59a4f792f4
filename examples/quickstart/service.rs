//! A small web service that serves the release that the link `current` names, and a request to it.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A running service; it stops when dropped.
#[derive(Debug)]
pub(crate) struct Service {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Service {
    pub(crate) async fn start(root: &Path) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let root = root.to_owned();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, root.clone()));
            }
        });
        Ok(Self { address, task })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(mut stream: TcpStream, root: PathBuf) -> io::Result<()> {
    let mut request = [0; 1024];
    let _ = stream.read(&mut request).await?;
    let release = std::fs::read_link(root.join("current"))?;
    let status = std::fs::read_to_string(root.join(&release).join("status"))?;
    let release = release.file_name().unwrap_or_default().to_string_lossy();
    let head = format!(
        "HTTP/1.1 {status}\r\nx-release: {release}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await
}

/// What the service answered.
pub(crate) struct Answer {
    /// Such as `200 OK`.
    pub(crate) status: String,
    /// The release that answered.
    pub(crate) release: String,
}

/// Sends `GET /`.
pub(crate) async fn get(address: SocketAddr) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    let mut lines = text.lines();
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 "));
    let release = lines.find_map(|line| line.strip_prefix("x-release: "));
    match (status, release) {
        (Some(status), Some(release)) => Ok(Answer { status: status.into(), release: release.into() }),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "this is no answer of the service")),
    }
}
