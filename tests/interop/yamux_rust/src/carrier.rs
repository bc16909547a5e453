//! The handshake of docs/protocol.md, from both sides, and the byte stream behind it.

use async_tungstenite::bytes::{ByteReader, ByteWriter};
use async_tungstenite::tungstenite::handshake::client::generate_key;
use async_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use async_tungstenite::{
    accept_hdr_async, client_async, WebSocketReceiver, WebSocketSender, WebSocketStream,
};
use http::HeaderValue;
use smol::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use smol::net::{TcpListener, TcpStream};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

const PATH: &str = "/_proxy/link";
const SUBPROTOCOL: &str = "proxy-engine.yamux";
const RAW_UPGRADE: &str = "proxy-engine-yamux";

pub trait Carrier: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Carrier for T {}

/// The binary messages of a WebSocket as one stream of bytes.
struct Messages {
    reader: ByteReader<WebSocketReceiver<TcpStream>>,
    writer: ByteWriter<WebSocketSender<TcpStream>>,
}

impl Messages {
    fn new(websocket: WebSocketStream<TcpStream>) -> Self {
        let (sender, receiver) = websocket.split();
        Messages {
            reader: ByteReader::new(receiver),
            writer: ByteWriter::new(sender),
        }
    }
}

impl AsyncRead for Messages {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        target: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.reader).poll_read(context, target)
    }
}

impl AsyncWrite for Messages {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_close(context)
    }
}

/// Ask for a link, as a device.
pub async fn dial(address: &str, token: &str, is_websocket: bool) -> io::Result<Box<dyn Carrier>> {
    let mut socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    if is_websocket {
        let request = http::Request::get(format!("ws://{address}{PATH}"))
            .header("Host", address)
            .header("Authorization", format!("Bearer {token}"))
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", generate_key())
            .header("Sec-WebSocket-Protocol", SUBPROTOCOL)
            .body(())
            .map_err(io::Error::other)?;
        let (websocket, _) = client_async(request, socket)
            .await
            .map_err(io::Error::other)?;
        return Ok(Box::new(Messages::new(websocket)));
    }
    let request = format!(
        "GET {PATH} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\
         Connection: Upgrade\r\nUpgrade: {RAW_UPGRADE}\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await?;
    let head = read_head(&mut socket).await?;
    if !head.starts_with("HTTP/1.1 101 ") {
        return Err(io::Error::other(format!("refused: {head}")));
    }
    Ok(Box::new(socket))
}

/// Wait for a link and accept it, as a server of version 1 would.
pub async fn answer(links: &TcpListener, is_websocket: bool) -> io::Result<Box<dyn Carrier>> {
    let (mut socket, _) = links.accept().await?;
    socket.set_nodelay(true)?;
    if is_websocket {
        let websocket = accept_hdr_async(socket, agree)
            .await
            .map_err(io::Error::other)?;
        return Ok(Box::new(Messages::new(websocket)));
    }
    read_head(&mut socket).await?;
    let response = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {RAW_UPGRADE}\r\n\
         Proxy-Engine-Version: 1\r\nProxy-Engine-Window: 262144\r\n\r\n"
    );
    socket.write_all(response.as_bytes()).await?;
    Ok(Box::new(socket))
}

#[allow(clippy::result_large_err)] // the library's choice
fn agree(_: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let fields = response.headers_mut();
    fields.insert(
        "Sec-WebSocket-Protocol",
        HeaderValue::from_static(SUBPROTOCOL),
    );
    fields.insert("Proxy-Engine-Version", HeaderValue::from_static("1"));
    fields.insert("Proxy-Engine-Window", HeaderValue::from_static("262144"));
    Ok(response)
}

/// Byte by byte, because what follows the head is yamux already.
async fn read_head(socket: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        socket.read_exact(&mut byte).await?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}
