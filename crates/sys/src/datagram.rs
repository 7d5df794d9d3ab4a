//! Datagrams with the address that they were sent to, and sockets that take none.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

use crate::check;

/// The address of this host that a datagram came to, and the interface it came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    pub ip: IpAddr,
    pub interface: u32,
}

/// Room for one `in6_pktinfo` or `in_pktinfo` with its header, aligned as `cmsghdr` wants it.
const CONTROL: usize = 8;
type Control = [u64; CONTROL];

fn set_option<T>(fd: BorrowedFd<'_>, level: i32, name: i32, value: &T) -> io::Result<()> {
    // SAFETY: the value outlives the call and its size is its type's; the kernel only reads it.
    check(
        unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                level,
                name,
                std::ptr::from_ref(value).cast(),
                size_of::<T>() as libc::socklen_t,
            )
        }
        .into(),
    )
    .map(drop)
}

/// From now on the kernel keeps nothing that arrives for this socket.
pub fn drop_everything(fd: BorrowedFd<'_>) -> io::Result<()> {
    // BPF_RET | BPF_K, 0: no byte of a packet is kept.
    let mut code = [libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0 }];
    let program = libc::sock_fprog { len: 1, filter: code.as_mut_ptr() };
    // The program outlives the call; the kernel copies and verifies it.
    set_option(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

/// Asks the kernel to tell with each datagram where it was sent to.
pub fn tell_local(fd: BorrowedFd<'_>, v6: bool) -> io::Result<()> {
    let on: libc::c_int = 1;
    if v6 {
        set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, &on)
    } else {
        set_option(fd, libc::IPPROTO_IP, libc::IP_PKTINFO, &on)
    }
}

/// Receives one datagram without waiting: its length, who sent it, and where to.
pub fn receive(
    fd: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<(usize, SocketAddr, Option<Local>)> {
    let mut control: Control = [0; CONTROL];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all-zero is valid for both: no pointers that are used, lengths of zero.
    let (mut name, mut head): (libc::sockaddr_storage, libc::msghdr) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    head.msg_name = (&raw mut name).cast();
    head.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    head.msg_iov = &raw mut part;
    head.msg_iovlen = 1;
    head.msg_control = control.as_mut_ptr().cast();
    head.msg_controllen = size_of::<Control>() as _;
    // SAFETY: every pointer in `head` is to a live object of the length that goes with it.
    let length =
        check(unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut head, libc::MSG_DONTWAIT) }
            as libc::c_long)?;
    let peer = address(&name).ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))?;
    Ok((length as usize, peer, local(&head)))
}

fn address(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: a sockaddr_storage is larger than and aligned for any address; the family
            // says which it is.
            let v4 = unsafe { *std::ptr::from_ref(name).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { *std::ptr::from_ref(name).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            Some(SocketAddrV6::new(ip, u16::from_be(v6.sin6_port), 0, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

fn local(head: &libc::msghdr) -> Option<Local> {
    // SAFETY: the kernel has filled in the control buffer and its length, and it is alive.
    let message = unsafe { libc::CMSG_FIRSTHDR(head) };
    if message.is_null() {
        return None;
    }
    // SAFETY: not null, so a whole header is there; the data of these two kinds is as long as
    // their structs, and is read without an assumption on its alignment.
    unsafe {
        match ((*message).cmsg_level, (*message).cmsg_type) {
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let info = libc::CMSG_DATA(message).cast::<libc::in6_pktinfo>().read_unaligned();
                let ip = Ipv6Addr::from(info.ipi6_addr.s6_addr).into();
                Some(Local { ip, interface: info.ipi6_ifindex })
            }
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let info = libc::CMSG_DATA(message).cast::<libc::in_pktinfo>().read_unaligned();
                let ip = Ipv4Addr::from(u32::from_be(info.ipi_addr.s_addr)).into();
                Some(Local { ip, interface: info.ipi_ifindex.unsigned_abs() })
            }
            _ => None,
        }
    }
}

/// Sends one datagram without waiting, from the given address of this host.
pub fn send(
    fd: BorrowedFd<'_>,
    bytes: &[u8],
    peer: SocketAddr,
    from: Option<Local>,
) -> io::Result<usize> {
    let mut control: Control = [0; CONTROL];
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: all-zero is valid for both.
    let (mut name, mut head): (libc::sockaddr_storage, libc::msghdr) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    head.msg_namelen = write_address(&mut name, peer);
    head.msg_name = (&raw mut name).cast();
    head.msg_iov = &raw mut part;
    head.msg_iovlen = 1;
    if let Some(from) = from {
        write_local(&mut head, &mut control, from);
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: every pointer in `head` is to a live object of the length that goes with it; the
    // kernel only reads the bytes.
    let length =
        check(unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const head, flags) } as libc::c_long)?;
    Ok(length as usize)
}

fn write_address(name: &mut libc::sockaddr_storage, peer: SocketAddr) -> libc::socklen_t {
    match peer {
        SocketAddr::V4(peer) => {
            // SAFETY: a sockaddr_storage is larger than and aligned for any address.
            let v4 = unsafe { &mut *std::ptr::from_mut(name).cast::<libc::sockaddr_in>() };
            v4.sin_family = libc::AF_INET as libc::sa_family_t;
            v4.sin_port = peer.port().to_be();
            v4.sin_addr.s_addr = u32::from(*peer.ip()).to_be();
            size_of::<libc::sockaddr_in>() as libc::socklen_t
        }
        SocketAddr::V6(peer) => {
            // SAFETY: as above.
            let v6 = unsafe { &mut *std::ptr::from_mut(name).cast::<libc::sockaddr_in6>() };
            v6.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            v6.sin6_port = peer.port().to_be();
            v6.sin6_addr.s6_addr = peer.ip().octets();
            v6.sin6_scope_id = peer.scope_id();
            size_of::<libc::sockaddr_in6>() as libc::socklen_t
        }
    }
}

fn write_local(head: &mut libc::msghdr, control: &mut Control, from: Local) {
    /// One control message with a struct as its data.
    fn write<T>(head: &mut libc::msghdr, control: &mut Control, level: i32, kind: i32, data: T) {
        const { assert!(size_of::<libc::cmsghdr>() + size_of::<T>() <= size_of::<Control>()) };
        let size = size_of::<T>() as libc::c_uint;
        head.msg_control = control.as_mut_ptr().cast();
        // SAFETY: arithmetic only. The buffer is large enough for header and data, as asserted,
        // and aligned for the header; CMSG_FIRSTHDR of a buffer that long is not null.
        unsafe {
            head.msg_controllen = libc::CMSG_SPACE(size) as _;
            let message = libc::CMSG_FIRSTHDR(head);
            (*message).cmsg_level = level;
            (*message).cmsg_type = kind;
            (*message).cmsg_len = libc::CMSG_LEN(size) as _;
            libc::CMSG_DATA(message).cast::<T>().write_unaligned(data);
        }
    }
    match from.ip {
        IpAddr::V6(ip) => {
            let info = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr { s6_addr: ip.octets() },
                // The interface matters only where the address means nothing without it.
                ipi6_ifindex: if ip.is_unicast_link_local() { from.interface } else { 0 },
            };
            write(head, control, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
        }
        IpAddr::V4(ip) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr { s_addr: u32::from(ip).to_be() },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            write(head, control, libc::IPPROTO_IP, libc::IP_PKTINFO, info);
        }
    }
}
