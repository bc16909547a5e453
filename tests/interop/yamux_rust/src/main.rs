//! rust-yamux as the far end of a link, for tests/interop/test_links.py.
//!
//! The same program as yamux_go/bridge, which says how it is used. --reset-after is for that
//! one only: here a stream is reset by dropping it. `ping` is none of this library's: it measures
//! the round trip by itself, at the start and every 10 s.

mod carrier;
mod join;

use futures_util::future::Either;
use smol::channel::{unbounded, Receiver};
use smol::io::AsyncReadExt;
use smol::net::{TcpListener, TcpStream};
use smol::stream::StreamExt;
use std::collections::HashMap;
use std::future::poll_fn;
use std::io::BufRead;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::task::Poll;
use yamux::{Config, Connection, Mode, Stream};

#[derive(Clone)]
struct Options {
    is_device: bool,
    is_websocket: bool,
    connect: String,
    token: String,
    target: String,
    write_size: usize,
}

impl Options {
    fn parse() -> Self {
        let mut words = std::env::args().skip(1);
        let mut given = HashMap::new();
        while let (Some(name), Some(value)) = (words.next(), words.next()) {
            given.insert(name, value);
        }
        let text = |name: &str| given.get(name).cloned().unwrap_or_default();
        Options {
            is_device: text("--role") == "device",
            is_websocket: text("--carrier") == "websocket",
            connect: text("--connect"),
            token: text("--token"),
            target: text("--target"),
            write_size: text("--write").parse().unwrap_or(0),
        }
    }
}

/// Streams that are joined to a connection now.
#[derive(Clone)]
struct Count(Arc<AtomicUsize>);

struct Counted(Count);

impl Count {
    fn one(&self) -> Counted {
        self.0.fetch_add(1, Ordering::SeqCst);
        Counted(self.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0 .0.fetch_sub(1, Ordering::SeqCst);
    }
}

enum Command {
    GoAway,
    Quit,
}

/// Commands are read in a thread of their own: stdin blocks.
fn obey(count: Count) -> Receiver<Command> {
    let (sender, receiver) = unbounded();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            match line.as_str() {
                "streams" => println!("{}", count.0.load(Ordering::SeqCst)),
                "goaway" => {
                    let _ = sender.try_send(Command::GoAway);
                    println!("ok");
                }
                _ => println!("unsupported"),
            }
        }
        let _ = sender.try_send(Command::Quit);
    });
    receiver
}

async fn to_target(stream: Stream, options: Options, _counted: Counted) {
    if let Ok(socket) = TcpStream::connect(&options.target).await {
        join::join(stream, socket, options.write_size).await;
    }
}

/// The control stream, which nobody reads here.
async fn discard(mut stream: Stream) {
    let mut block = [0; 4096];
    while matches!(stream.read(&mut block).await, Ok(1..)) {}
}

async fn run(options: Options) -> std::io::Result<()> {
    let mut visitors = None;
    let carrier = if options.is_device {
        carrier::dial(&options.connect, &options.token, options.is_websocket).await?
    } else {
        let links = TcpListener::bind("127.0.0.1:0").await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        println!(
            "ports {} {}",
            links.local_addr()?.port(),
            listener.local_addr()?.port()
        );
        visitors = Some(listener);
        carrier::answer(&links, options.is_websocket).await?
    };
    println!("up");
    let mut config = Config::default();
    config.set_split_send_size(options.write_size.max(16 * 1024));
    let mode = if options.is_device {
        Mode::Client
    } else {
        Mode::Server
    };
    let mut connection = Connection::new(carrier, config, mode);
    let count = Count(Arc::new(AtomicUsize::new(0)));
    let mut commands = pin!(obey(count.clone()));
    let mut incoming = pin!(match &visitors {
        Some(listener) => Either::Left(listener.incoming()),
        None => Either::Right(smol::stream::pending()),
    });
    let mut waiting: Option<TcpStream> = None; // a visitor without a stream
    let mut is_leaving = false;
    poll_fn(|context| {
        while !is_leaving {
            match commands.as_mut().poll_next(context) {
                Poll::Ready(Some(Command::GoAway)) => {
                    is_leaving = true;
                    continue;
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => {}
            }
            if waiting.is_none() {
                if let Poll::Ready(Some(Ok(socket))) = incoming.as_mut().poll_next(context) {
                    waiting = Some(socket);
                }
            }
            if waiting.is_some() {
                if let Poll::Ready(opened) = connection.poll_new_outbound(context) {
                    let socket = waiting.take().unwrap();
                    let counted = count.one();
                    let size = options.write_size;
                    match opened {
                        Ok(stream) => smol::spawn(async move {
                            join::join(stream, socket, size).await;
                            drop(counted);
                        })
                        .detach(),
                        Err(_) => join::reset(&socket),
                    }
                    continue;
                }
            }
            match connection.poll_next_inbound(context) {
                Poll::Ready(Some(Ok(stream))) if options.is_device => {
                    smol::spawn(to_target(stream, options.clone(), count.one())).detach();
                }
                Poll::Ready(Some(Ok(stream))) => smol::spawn(discard(stream)).detach(),
                Poll::Ready(Some(Err(error))) => {
                    eprintln!("{error}");
                    return Poll::Ready(());
                }
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
        // Its only way to say GoAway.
        connection.poll_close(context).map(|_| ())
    })
    .await;
    Ok(())
}

fn main() {
    if let Err(error) = smol::block_on(run(Options::parse())) {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
