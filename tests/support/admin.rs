//! The admin address as a script sees it: plain HTTP/1, and Prometheus' text.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Status code and body of `GET path`.
pub(crate) async fn fetch(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    ask(address, "GET", path, "").await
}

/// Status code and body of `POST path`, with a body of text.
pub(crate) async fn post(address: SocketAddr, path: &str, text: &str) -> (u16, String) {
    let answer = ask(address, "POST", path, text).await;
    answer.expect("admin answers")
}

async fn ask(
    address: SocketAddr,
    method: &str,
    path: &str,
    text: &str,
) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
         content-type: text/plain\r\ncontent-length: {}\r\n\r\n{text}",
        text.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await?;
    let code = reply.split(' ').nth(1).and_then(|code| code.parse().ok());
    let code = code.ok_or_else(|| io::Error::other(format!("no HTTP reply: {reply:?}")))?;
    let (_, body) = reply.split_once("\r\n\r\n").unwrap_or_default();
    Ok((code, body.to_owned()))
}

/// The sum of a metric's series whose labels contain `label` (all, if empty);
/// 0 where there is none yet.
pub(crate) async fn metric(address: SocketAddr, name: &str, label: &str) -> f64 {
    let (code, text) = fetch(address, "/metrics").await.expect("admin answers");
    assert_eq!(code, 200, "{text}");
    let series = text.lines().filter_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (of, labels) = series.split_once('{').unwrap_or((series, ""));
        (of == name && labels.contains(label)).then(|| value.parse::<f64>().expect("a number"))
    });
    series.sum()
}
