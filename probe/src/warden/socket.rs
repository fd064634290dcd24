//! The socket between a client and its warden: a pair that has no name, so that nobody else can open it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, getsockopt, recv, send, socketpair};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::os::fd::AsRawFd;

/// The first byte of each datagram.
mod tag {
    /// There is something in the ring.
    pub(super) const NOTICE: u8 = 0;
    /// A part of a message, which goes on.
    pub(super) const PART: u8 = 1;
    /// Its last part.
    pub(super) const LAST: u8 = 2;
}

/// The bytes of a message that fit into one datagram.
const PART_BYTES: usize = 32 * 1024;

/// What arrives.
#[derive(Debug)]
pub(crate) enum Arrival {
    /// There is something in the ring.
    Notice,
    /// A whole message.
    Message(Vec<u8>),
    /// The other side has gone.
    End,
}

/// What has arrived.
#[derive(Debug)]
struct Incoming {
    /// For a datagram.
    buffer: Vec<u8>,
    /// Of a message.
    partial: Vec<u8>,
}

/// One end of the pair.
#[derive(Debug)]
pub(crate) struct Socket {
    descriptor: OwnedFd,
    sending: Mutex<()>,
    incoming: Mutex<Incoming>,
}

impl Socket {
    /// Both ends.
    pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
        Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
    }

    pub(crate) fn new(descriptor: OwnedFd) -> Socket {
        let incoming = Incoming { buffer: vec![0; PART_BYTES + 1], partial: Vec::new() };
        Socket { descriptor, sending: Mutex::new(()), incoming: Mutex::new(incoming) }
    }

    /// The descriptor, which stays this value's.
    pub(crate) fn raw(&self) -> i32 {
        self.descriptor.as_raw_fd()
    }

    /// The process that has made the pair.
    pub(crate) fn maker(&self) -> io::Result<i32> {
        Ok(getsockopt(&self.descriptor, PeerCredentials)?.pid())
    }

    /// Sends a message, waiting until there is room for it.
    pub(crate) fn send(&self, message: &impl Serialize) -> io::Result<()> {
        self.send_bytes(&postcard::to_stdvec(message).map_err(io::Error::other)?)
    }

    /// The same for one that is bytes already.
    pub(crate) fn send_bytes(&self, bytes: &[u8]) -> io::Result<()> {
        let _whole = self.sending.lock().unwrap_or_else(PoisonError::into_inner);
        let mut datagram = Vec::with_capacity(PART_BYTES.min(bytes.len()) + 1);
        let mut rest = bytes;
        loop {
            let (part, after) = rest.split_at(rest.len().min(PART_BYTES));
            datagram.clear();
            datagram.push(if after.is_empty() { tag::LAST } else { tag::PART });
            datagram.extend_from_slice(part);
            self.send_datagram(&datagram, MsgFlags::empty())?;
            rest = after;
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    fn send_datagram(&self, datagram: &[u8], flags: MsgFlags) -> io::Result<()> {
        loop {
            match send(self.descriptor.as_raw_fd(), datagram, flags | MsgFlags::MSG_NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Wakes the other side, which is to look into the ring. Where that has so much to read that there is no room, it
    /// is awake.
    pub(crate) fn notify(&self) {
        match self.send_datagram(&[tag::NOTICE], MsgFlags::MSG_DONTWAIT) {
            // That it is gone will be noticed by who reads.
            Ok(()) | Err(_) => {}
        }
    }

    /// The next arrival; `None` if there is none yet, or only a part.
    pub(crate) fn receive(&self) -> io::Result<Option<Arrival>> {
        /// Far more than any message has.
        const MOST: usize = 1 << 30;
        let mut incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        let Incoming { buffer, partial } = &mut *incoming;
        let length = match recv(self.descriptor.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
            Ok(length) => length,
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(None),
            Err(Errno::ECONNRESET) => return Ok(Some(Arrival::End)),
            Err(error) => return Err(error.into()),
        };
        match buffer.get(..length).and_then(<[u8]>::split_first) {
            None => Ok(Some(Arrival::End)),
            Some((&tag::NOTICE, _)) => Ok(Some(Arrival::Notice)),
            Some((&tag @ (tag::PART | tag::LAST), part)) if partial.len() < MOST => {
                partial.extend_from_slice(part);
                let whole = (tag == tag::LAST).then(|| std::mem::take(partial));
                Ok(whole.map(Arrival::Message))
            }
            Some(_) => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// A message of the other side.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    postcard::from_bytes(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(socket: &Socket) -> Vec<u8> {
        loop {
            match socket.receive().unwrap() {
                Some(Arrival::Message(bytes)) => return bytes,
                Some(Arrival::End) => panic!("it has ended"),
                Some(Arrival::Notice) | None => std::thread::yield_now(),
            }
        }
    }

    #[test]
    fn messages_of_any_length_arrive_whole() {
        let (one, other) = Socket::pair().unwrap();
        let (one, other) = (Socket::new(one), Socket::new(other));
        assert_eq!(other.maker().unwrap(), std::process::id() as i32);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for length in [1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3_000_000] {
                    one.notify();
                    one.send_bytes(&vec![length as u8; length]).unwrap();
                }
            });
            for length in [1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3_000_000] {
                assert!(message(&other) == vec![length as u8; length], "{length}");
            }
        });
        drop(one);
        assert!(matches!(other.receive(), Ok(Some(Arrival::End))));
        assert!(other.send_bytes(&[1]).is_err());
    }

    #[test]
    fn datagrams_that_are_none_of_ours_are_errors() {
        let (one, other) = Socket::pair().unwrap();
        let (one, other) = (Socket::new(one), Socket::new(other));
        one.send_datagram(&[9, 1, 2], MsgFlags::empty()).unwrap();
        assert!(other.receive().is_err());
        assert!(parse::<Vec<u64>>(&[0xff; 20]).is_err());
    }
}
