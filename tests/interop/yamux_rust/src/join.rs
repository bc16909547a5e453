//! A stream joined to a TCP connection: both ways at once, with half-close and resets.

use smol::io::{AsyncRead, AsyncWrite};
use smol::net::TcpStream;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{ready, Context, Poll};
use yamux::Stream;

const READ_SIZE: usize = 64 * 1024;

/// One direction: what was read and is not yet written.
struct Pump {
    block: Vec<u8>,
    start: usize,
    end: usize,
    least: usize, // bytes gathered before anything is written, but for the first ones
    is_begun: bool,
    read_all: bool,
    is_ended: bool, // the end was passed on
    is_done: bool,
}

impl Pump {
    fn new(size: usize, least: usize) -> Self {
        Pump {
            block: vec![0; size],
            start: 0,
            end: 0,
            least,
            is_begun: false,
            read_all: false,
            is_ended: false,
            is_done: false,
        }
    }

    /// Ready with Ok once the end of the source was passed on.
    fn poll<R, W>(
        &mut self,
        context: &mut Context<'_>,
        source: &mut R,
        target: &mut W,
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        while !self.is_done {
            let least = if self.is_begun { self.least.max(1) } else { 1 };
            while !self.read_all && self.end < least {
                let free = &mut self.block[self.end..];
                let size = ready!(Pin::new(&mut *source).poll_read(context, free))?;
                self.end += size;
                self.read_all = size == 0;
            }
            while self.start < self.end {
                let bytes = &self.block[self.start..self.end];
                self.start += ready!(Pin::new(&mut *target).poll_write(context, bytes))?;
            }
            (self.start, self.end, self.is_begun) = (0, 0, true);
            if self.read_all {
                // Twice, as careless owners do: the library makes two FINs of it.
                if !self.is_ended {
                    ready!(Pin::new(&mut *target).poll_close(context))?;
                    self.is_ended = true;
                }
                ready!(Pin::new(&mut *target).poll_close(context))?;
                self.is_done = true;
            } else {
                ready!(Pin::new(&mut *target).poll_flush(context))?;
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Copy until both sides are done. What breaks on one side is broken off on the other: a stream
/// that is dropped before it was closed is reset.
pub async fn join(mut stream: Stream, mut socket: TcpStream, write_size: usize) {
    let mut up = Pump::new(write_size.max(READ_SIZE), write_size);
    let mut down = Pump::new(READ_SIZE, 0);
    let result: io::Result<()> = poll_fn(|context| {
        let sent = up.poll(context, &mut socket, &mut stream)?;
        let is_open = !up.is_ended;
        let mut source = Honest {
            stream: &mut stream,
            is_open,
        };
        let received = down.poll(context, &mut source, &mut Ending(&mut socket))?;
        match (sent, received) {
            (Poll::Ready(()), Poll::Ready(())) => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        }
    })
    .await;
    if result.is_err() {
        reset(&socket);
    }
}

/// Close with RST.
pub fn reset(socket: &TcpStream) {
    let _ = socket2::SockRef::from(socket).set_linger(Some(std::time::Duration::ZERO));
}

/// A stream whose resets are errors. To the library a reset is an end like any other; only the
/// stream's state tells them apart, and that only before our own end.
struct Honest<'a> {
    stream: &'a mut Stream,
    is_open: bool,
}

impl AsyncRead for Honest<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        target: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let size = ready!(Pin::new(&mut *self.stream).poll_read(context, target))?;
        if size == 0 && self.is_open && self.stream.is_closed() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        Poll::Ready(Ok(size))
    }
}

/// A socket whose close ends only its writing side.
struct Ending<'a>(&'a mut TcpStream);

impl AsyncWrite for Ending<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(context)
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let _ = self.0.shutdown(std::net::Shutdown::Write); // the other side may be gone already
        Poll::Ready(Ok(()))
    }
}
