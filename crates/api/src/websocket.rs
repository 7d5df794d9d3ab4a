//! Attach by WebSocket (RFC 6455): binary messages carry the bytes of the streams as they are.
//!
//! The supervisor speaks to a plain socket, so that what frames its bytes is between both: one
//! task per client, with buffers that do not grow.

use std::time::Duration;

use hoy_engine::{AttachSession, HijackedConn};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::conn::Conn;
use crate::http::Head;
use crate::{ApiError, sha1};

/// A client that takes nothing for so long is gone.
const PROGRESS: Duration = Duration::from_secs(300);
/// What is read of the streams at once.
const PIECE: usize = 32 * 1024;
/// What a client's frame may hold. Nobody types more.
const MAX_FRAME: u64 = 1 << 20;
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// What the handshake answers, or why there is none.
pub(crate) fn accept(head: &Head) -> Result<String, ApiError> {
    let asked = head.websocket.as_ref().filter(|_| head.method == "GET");
    let key = asked.ok_or_else(|| ApiError::bad("not websocket protocol"))?;
    if head.websocket_version != "13" {
        return Err(ApiError::bad("unsupported websocket version: 13 is known"));
    }
    Ok(hoy_engine::base64(&sha1::digest(format!("{key}{GUID}").as_bytes())))
}

/// Carries an attach until one side ends.
pub(crate) async fn carry(conn: Conn, accept: &str, session: AttachSession) {
    let Ok((socket, early)) = conn.upgrade(accept).await else { return };
    let Ok((ours, theirs)) = UnixStream::pair() else { return };
    let Ok(theirs) = theirs.into_std() else { return };
    let plain = HijackedConn { fd: theirs.into(), early: Vec::new() };
    let (mut from_client, mut to_client) = socket.into_split();
    let (mut output, mut input) = ours.into_split();
    // Frames of control are answered by the one that writes.
    let (answers, mut answered) = tokio::sync::mpsc::channel(4);
    let read = async {
        let mut reader = Reader { early, from: &mut from_client, mask: [0; 4] };
        while let Some((kind, bytes)) = reader.frame().await {
            match kind {
                CONTINUATION | TEXT | BINARY => {
                    if input.write_all(&bytes).await.is_err() {
                        break;
                    }
                }
                PING => drop(answers.send((PONG, bytes)).await),
                PONG => {}
                _ => {
                    let _ = input.shutdown().await;
                    let _ = answers.send((CLOSE, bytes)).await;
                    // The one that writes ends with it.
                    std::future::pending::<()>().await;
                }
            }
        }
        let _ = input.shutdown().await;
    };
    let write = async {
        let mut piece = vec![0; PIECE];
        loop {
            let (kind, bytes) = tokio::select! {
                answer = answered.recv() => match answer {
                    Some(answer) => answer,
                    None => return,
                },
                read = output.read(&mut piece) => match read {
                    Ok(length) if length > 0 => (BINARY, piece[..length].to_vec()),
                    // 1000: an end as it should be.
                    _ => (CLOSE, vec![3, 232]),
                },
            };
            let mut frame = frame_head(kind, bytes.len());
            frame.extend(bytes);
            let sent = timeout(PROGRESS, to_client.write_all(&frame)).await;
            if kind == CLOSE || !matches!(sent, Ok(Ok(()))) {
                return;
            }
        }
    };
    let attach = session.run(plain);
    let streams = async {
        tokio::select! {
            () = read => {},
            () = write => {},
        }
    };
    // An attach of what was said before ends before the client has read it.
    tokio::join!(attach, streams);
}

/// The head of a server's frame: whole, and not masked.
fn frame_head(kind: u8, length: usize) -> Vec<u8> {
    let mut head = vec![0x80 | kind];
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short), _) if short < 126 => head.push(short),
        (_, Ok(middle)) => {
            head.push(126);
            head.extend(middle.to_be_bytes());
        }
        _ => {
            head.push(127);
            head.extend((length as u64).to_be_bytes());
        }
    }
    head
}

/// A client's frames.
struct Reader<'a, R> {
    /// What came behind the request's head.
    early: Vec<u8>,
    from: &'a mut R,
    mask: [u8; 4],
}

impl<R: AsyncRead + Unpin> Reader<'_, R> {
    async fn exact(&mut self, into: &mut [u8]) -> Option<()> {
        let early = into.len().min(self.early.len());
        let rest = self.early.split_off(early);
        into[..early].copy_from_slice(&std::mem::replace(&mut self.early, rest));
        self.from.read_exact(&mut into[early..]).await.ok().map(drop)
    }

    /// The next one, unmasked; `None` at the end and for what is none.
    async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let mut two = [0; 2];
        self.exact(&mut two).await?;
        let [first, second] = two;
        // Clients mask, and no extension was agreed upon.
        if second & 0x80 == 0 || first & 0x70 != 0 {
            return None;
        }
        let mut length = u64::from(second & 0x7f);
        if length == 126 {
            let mut bytes = [0; 2];
            self.exact(&mut bytes).await?;
            length = u16::from_be_bytes(bytes).into();
        } else if length == 127 {
            let mut bytes = [0; 8];
            self.exact(&mut bytes).await?;
            length = u64::from_be_bytes(bytes);
        }
        let control = first & 8 != 0;
        if length > MAX_FRAME || (control && length > 125) {
            return None;
        }
        let mut mask = self.mask;
        self.exact(&mut mask).await?;
        let mut bytes = vec![0; usize::try_from(length).ok()?];
        self.exact(&mut bytes).await?;
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte ^= mask[at % 4];
        }
        Some((first & 0x0f, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_of_frames() {
        assert_eq!(frame_head(BINARY, 5), [0x82, 5]);
        assert_eq!(frame_head(BINARY, 126), [0x82, 126, 0, 126]);
        assert_eq!(frame_head(CLOSE, 70_000)[..2], [0x88, 127]);
    }

    #[tokio::test]
    async fn a_client_speaks() {
        // "Hello" of RFC 6455, 5.7, half of it before and half behind.
        let frame = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        let mut rest = &frame[4..];
        let mut reader = Reader { early: frame[..4].to_vec(), from: &mut rest, mask: [0; 4] };
        assert_eq!(reader.frame().await, Some((TEXT, b"Hello".to_vec())));
        assert_eq!(reader.frame().await, None);
        let mut unmasked = &[0x81_u8, 0x01, 0x41][..];
        let mut reader = Reader { early: Vec::new(), from: &mut unmasked, mask: [0; 4] };
        assert_eq!(reader.frame().await, None);
    }
}
