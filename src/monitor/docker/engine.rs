//! The Docker Engine API over a Unix or TCP socket, as far as the monitor needs it: HTTP/1.1, one connection a question.
//!
//! Paths have no version, so each engine answers with its newest one; the fields that are read here are in all of them.
//! See <https://docs.docker.com/reference/api/engine/>.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::measure::outcome::chain;

/// How long an engine may take over each of its answers, and over the first reading.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The longest answer, and the longest reading, bytes. A reading has some 5 KB, and a list 1 KB a container.
const MAX_BYTES: usize = 16 * 1024 * 1024;

#[derive(Clone, Debug)]
pub(super) enum Engine {
    Unix(PathBuf),
    /// HOST:PORT
    Tcp(String),
}

/// A container, from `/containers/{name}/json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Container {
    pub id: String,
    pub name: String,
    pub state: ContainerState,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ContainerState {
    pub status: String,
    pub running: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    names: Vec<String>,
}

impl Engine {
    /// The engine at `unix:///PATH` or `tcp://HOST:PORT`; `None` for another form.
    pub fn at(address: &str) -> Option<Self> {
        match address.split_once("://")? {
            ("unix", path) if !path.is_empty() => Some(Self::Unix(path.into())),
            ("tcp" | "http", host) if !host.is_empty() => Some(Self::Tcp(host.trim_end_matches('/').to_owned())),
            _ => None,
        }
    }

    /// The container of this name or id; `None` where there is none. The name goes into a URL as it stands.
    ///
    /// # Errors
    /// The cause, where the engine cannot be asked.
    pub async fn container(&self, name: &str) -> Result<Option<Container>, String> {
        self.ask(&format!("/containers/{name}/json")).await
    }

    /// Names of the running containers, sorted.
    ///
    /// # Errors
    /// As of [`Self::container`].
    pub async fn running_names(&self) -> Result<Vec<String>, String> {
        let listed: Vec<Listed> = self.ask("/containers/json").await?.unwrap_or_default();
        let names = listed.iter().filter_map(|one| one.names.first());
        let mut names: Vec<String> = names.map(|name| name.trim_start_matches('/').to_owned()).collect();
        names.sort();
        Ok(names)
    }

    /// The statistics of a container, about one a second.
    ///
    /// # Errors
    /// As of [`Self::container`].
    pub async fn statistics(&self, id: &str) -> Result<Lines, String> {
        let response = self.get(&format!("/containers/{id}/stats?stream=true")).await?;
        match response.status() {
            StatusCode::OK => Ok(Lines { body: response.into_body(), buffer: Vec::new() }),
            _ => Err(refusal(response).await),
        }
    }

    async fn ask<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, String> {
        let answer = async {
            let response = self.get(path).await?;
            match response.status() {
                StatusCode::NOT_FOUND => Ok(None),
                StatusCode::OK => {
                    let body = whole(response).await?;
                    serde_json::from_slice(&body).map(Some).map_err(|error| format!("not an engine's answer: {error}"))
                }
                _ => Err(refusal(response).await),
            }
        };
        let late = |_| Err(format!("no whole answer within {} s", PATIENCE.as_secs()));
        timeout(PATIENCE, answer).await.unwrap_or_else(late)
    }

    async fn get(&self, path: &str) -> Result<Response<Incoming>, String> {
        let response = async {
            match self {
                Self::Unix(socket) => send(UnixStream::connect(socket).await.map_err(cause)?, path).await,
                Self::Tcp(host) => send(TcpStream::connect(host).await.map_err(cause)?, path).await,
            }
        };
        let late = |_| Err(format!("no answer within {} s", PATIENCE.as_secs()));
        timeout(PATIENCE, response).await.unwrap_or_else(late)
    }
}

/// Lines of a body that goes on and on.
pub(super) struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Lines {
    /// The next line as JSON; `None` when the engine has closed the stream.
    ///
    /// # Errors
    /// The cause, where the connection broke or the line is not what was expected.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return serde_json::from_slice(&line).map(Some).map_err(cause);
            }
            if self.buffer.len() > MAX_BYTES {
                return Err("its reading is too long".to_owned());
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(cause(error)),
                Some(Ok(frame)) => self.buffer.extend(frame.data_ref().into_iter().flatten()),
            }
        }
    }
}

async fn send(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    path: &str,
) -> Result<Response<Incoming>, String> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(cause)?;
    // It ends with the response's body.
    tokio::spawn(connection);
    // Engines demand a host, and do not look at it.
    let request = Request::get(path).header("Host", "docker").body(Empty::<Bytes>::new()).map_err(cause)?;
    sender.send_request(request).await.map_err(cause)
}

async fn whole(response: Response<Incoming>) -> Result<Bytes, String> {
    let body = Limited::new(response.into_body(), MAX_BYTES).collect().await;
    body.map(|body| body.to_bytes()).map_err(|error| chain(error.as_ref()))
}

async fn refusal(response: Response<Incoming>) -> String {
    #[derive(Deserialize)]
    struct Refusal {
        message: String,
    }
    let status = response.status();
    let body = whole(response).await.unwrap_or_default();
    serde_json::from_slice(&body).map_or_else(|_| format!("HTTP status {status}"), |refusal: Refusal| refusal.message)
}

fn cause(error: impl std::error::Error) -> String {
    let mut cause: &dyn std::error::Error = &error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
