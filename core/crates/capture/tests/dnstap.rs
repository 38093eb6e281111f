//! Senders of dnstap, good and bad, against the source that they connect to.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use passive_dns::frame::{Event, FrameSource};
use passive_dns::resolvers::Resolvers;
use passive_dns_capture::CaptureError;
use passive_dns_capture::dnstap::{Access, CONNECTIONS_MAX, DnstapSource, Notice, PATIENCE, Report};

const CONTENT_TYPE: &[u8] = b"protobuf:dnstap.Dnstap";
const RESOLVER_RESPONSE: u8 = 4;
const CLIENT_QUERY: u8 = 5;

//------------ Senders -----------------------------------------------------------------------------------------

fn control(kind: u32, content_type: Option<&[u8]>) -> Vec<u8> {
    let mut body = kind.to_be_bytes().to_vec();
    if let Some(content_type) = content_type {
        body.extend(1u32.to_be_bytes());
        body.extend((content_type.len() as u32).to_be_bytes());
        body.extend(content_type);
    }
    [&0u32.to_be_bytes(), &(body.len() as u32).to_be_bytes(), &body[..]].concat()
}

fn accept() -> Vec<u8> {
    control(1, Some(CONTENT_TYPE))
}

fn start() -> Vec<u8> {
    control(2, Some(CONTENT_TYPE))
}

fn ready() -> Vec<u8> {
    control(4, Some(CONTENT_TYPE))
}

fn data(octets: &[u8]) -> Vec<u8> {
    [&(octets.len() as u32).to_be_bytes(), octets].concat()
}

/// A dnstap message that says nothing but its kind and its sender's version.
fn message(kind: u8, version: &str) -> Vec<u8> {
    let mut frame = vec![0x12, version.len() as u8];
    frame.extend(version.as_bytes());
    frame.extend([0x72, 2, 0x08, kind, 0x78, 1]);
    frame
}

/// A sender that has gone as far as START.
fn sender<S: Read + Write>(source: &mut DnstapSource, mut stream: S) -> S {
    stream.write_all(&ready()).unwrap();
    let before = source.reports().latest().seen;
    until(source, |report| report.seen > before);
    // Accepted by then; the next look reads and answers.
    assert!(matches!(source.next(MOMENT).unwrap(), Event::Idle));
    let mut answer = vec![0; accept().len()];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, accept());
    stream.write_all(&start()).unwrap();
    stream
}

//------------ The source --------------------------------------------------------------------------------------

/// A folder of its own for each test's sockets.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("dnstap-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Folder(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("socket")
    }

    fn endpoint(&self) -> String {
        format!("unix:{}", self.socket().display())
    }

    fn open(&self) -> DnstapSource {
        self.open_with(PATIENCE)
    }

    fn open_with(&self, patience: Duration) -> DnstapSource {
        let mut source = DnstapSource::new(patience);
        source.listen(&self.endpoint(), Access::default()).unwrap();
        source
    }

    fn connect(&self) -> UnixStream {
        UnixStream::connect(self.socket()).unwrap()
    }

    /// A sender that has gone as far as START.
    fn sender(&self, source: &mut DnstapSource) -> UnixStream {
        sender(source, self.connect())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const MOMENT: Duration = Duration::from_millis(20);

/// The next frames, so many.
fn next(source: &mut DnstapSource, count: usize) -> Vec<Vec<u8>> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut frames = Vec::new();
    while frames.len() < count {
        assert!(Instant::now() < deadline, "{} frames of {count}", frames.len());
        if let Event::Dnstap(frame) = source.next(MOMENT).unwrap() {
            frames.push(frame.to_vec());
        }
    }
    frames
}

/// Runs the source until its report says so; the frames that came.
fn until(source: &mut DnstapSource, mut reached: impl FnMut(&Report) -> bool) -> Vec<Vec<u8>> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut frames = Vec::new();
    while !reached(&source.reports().latest()) {
        assert!(Instant::now() < deadline, "{:?}", source.reports().latest());
        if let Event::Dnstap(frame) = source.next(MOMENT).unwrap() {
            frames.push(frame.to_vec());
        }
    }
    frames
}

fn count(report: &Report, name: &str) -> u64 {
    let value = report.counters().find(|(counter, _)| *counter == name).expect(name).1;
    let others = report.counters().filter(|(name, _)| *name != "dnstap_connections_seen");
    assert_eq!(report.seen, others.map(|(_, value)| value).sum::<u64>(), "{report:?}");
    value
}

/// Runs the source until a connection has ended in that way; the sentence about it.
fn ended(source: &mut DnstapSource, name: &str) -> String {
    let before = count(&source.reports().latest(), name);
    until(source, |report| count(report, name) > before);
    source.reports().latest().last_refusal.unwrap_or_default()
}

fn refused(endpoint: &str) -> String {
    match DnstapSource::new(PATIENCE).listen(endpoint, Access::default()) {
        Ok(_) => panic!("{endpoint} is listened on"),
        Err(error) => error.to_string(),
    }
}

//------------ Tests -------------------------------------------------------------------------------------------

#[test]
fn several_senders_come_and_go_and_come_back() {
    let folder = Folder::new();
    let mut source = folder.open();
    let mut first = folder.sender(&mut source);
    let mut second = folder.sender(&mut source);
    first.write_all(&[data(&message(RESOLVER_RESPONSE, "one 1.0")), data(b"x")].concat()).unwrap();
    second.write_all(&data(&message(RESOLVER_RESPONSE, "two 2.0"))).unwrap();
    let mut received = next(&mut source, 3);
    received.sort();
    let mut sent =
        [message(RESOLVER_RESPONSE, "one 1.0"), message(RESOLVER_RESPONSE, "two 2.0"), b"x".to_vec()];
    sent.sort();
    assert_eq!(received, sent);
    until(&mut source, |report| report.peers.iter().map(|peer| peer.frames).sum::<u64>() == 3);
    let peers = source.reports().latest().peers;
    assert_eq!(
        peers.iter().map(|peer| (&peer.version[..], peer.frames)).collect::<Vec<_>>(),
        [("one 1.0", 2), ("two 2.0", 1)]
    );
    assert!(peers.iter().all(|peer| peer.resolver && peer.peer.starts_with("process ")));

    first.write_all(&control(3, None)).unwrap();
    ended(&mut source, "dnstap_connections_finished");
    let mut finish = Vec::new();
    first.read_to_end(&mut finish).unwrap();
    assert_eq!(finish, control(5, None));
    drop(second);
    ended(&mut source, "dnstap_connections_lost");

    let mut again = folder.sender(&mut source);
    again.write_all(&data(b"again")).unwrap();
    assert_eq!(next(&mut source, 1), [b"again"]);
    assert_eq!(count(&source.reports().latest(), "dnstap_connections_open"), 1);
    let notices = source.reports().take_notices();
    assert_eq!(notices.len(), 2, "{notices:?}");
    for version in ["one 1.0", "two 2.0"] {
        let told = |notice: &Notice| {
            !notice.trouble && notice.sentence.ends_with(&format!("{version}, sends what a resolver asks"))
        };
        assert!(notices.iter().any(told), "{notices:?}");
    }
    let reports = source.reports();
    drop(source);
    assert_eq!(count(&reports.latest(), "dnstap_connections_closed"), 1);
}

#[test]
fn tcp_on_loopback() {
    let mut source = DnstapSource::new(PATIENCE);
    for (endpoint, host) in [("tcp:127.0.0.1:0", "127.0.0.1"), ("tcp:[::1]:0", "::1")] {
        let port = source.listen(endpoint, Access::default()).unwrap();
        let stream = TcpStream::connect((host, port.expect("a port"))).unwrap();
        let mut stream = sender(&mut source, stream);
        stream.write_all(&data(b"frame")).unwrap();
        assert_eq!(next(&mut source, 1), [b"frame"]);
    }
}

#[test]
fn what_bad_peers_do_touches_no_other() {
    let folder = Folder::new();
    let mut source = folder.open_with(Duration::from_millis(300));
    let mut good = folder.sender(&mut source);

    let mut garbage = folder.connect();
    garbage.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let sentence = ended(&mut source, "dnstap_connections_rejected_malformed");
    assert!(sentence.contains("does not speak Frame Streams"), "{sentence}");

    let mut other = folder.connect();
    other.write_all(&control(4, Some(b"protobuf:other"))).unwrap();
    let sentence = ended(&mut source, "dnstap_connections_refused_content_type");
    assert!(sentence.contains("it sends the content type \"protobuf:other\""), "{sentence}");

    let mut huge = folder.sender(&mut source);
    huge.write_all(&u32::MAX.to_be_bytes()).unwrap();
    let sentence = ended(&mut source, "dnstap_connections_rejected_malformed");
    assert!(sentence.contains("a frame of 4294967295 octets"), "{sentence}");

    let silent = folder.connect();
    let sentence = ended(&mut source, "dnstap_connections_rejected_slow");
    assert!(sentence.contains("it has not gone on with what it began"), "{sentence}");
    let mut slow = folder.sender(&mut source);
    slow.write_all(&data(b"frame")[..6]).unwrap();
    ended(&mut source, "dnstap_connections_rejected_slow");

    // Nor is a frame let grow for ever, an octet at every look.
    let mut trickling = folder.sender(&mut source);
    trickling.write_all(&data(&[7; 10_000])[..4]).unwrap();
    until(&mut source, |report| {
        // Its pace. Once it is ended, nobody takes the octet.
        std::thread::sleep(Duration::from_millis(1));
        let _ = trickling.write(b"x");
        count(report, "dnstap_connections_rejected_slow") == 3
    });

    // Silence between frames is no fault, however long.
    good.write_all(&data(b"still here")).unwrap();
    assert_eq!(next(&mut source, 1), [b"still here"]);
    drop(silent);
}

#[test]
fn senders_that_tell_of_clients_only_are_refused() {
    let folder = Folder::new();
    let mut source = folder.open();
    let mut knot = folder.sender(&mut source);
    knot.write_all(&data(&message(CLIENT_QUERY, "Knot Resolver 5.6.0"))).unwrap();
    let sentence = ended(&mut source, "dnstap_connections_refused_clients");
    assert!(
        sentence.ends_with(
            "is refused: the dnstap of Knot Resolver 5.6.0 tells of clients only, whom a sensor never records; \
             record what it asks on a network interface instead"
        ),
        "{sentence}"
    );

    let clients = data(&message(CLIENT_QUERY, "")).repeat(1000);
    let mut mixed = folder.sender(&mut source);
    mixed.write_all(&[data(&message(RESOLVER_RESPONSE, "")), clients.clone()].concat()).unwrap();
    assert_eq!(next(&mut source, 1001).len(), 1001);
    let mut misled = folder.sender(&mut source);
    misled.write_all(&clients).unwrap();
    let received = until(&mut source, |report| count(report, "dnstap_connections_refused_clients") == 2);
    assert_eq!(received.len(), 1000);
    let sentence = source.reports().latest().last_refusal.unwrap();
    assert!(sentence.contains("it has sent 1000 messages of clients"), "{sentence}");
}

#[test]
fn connections_are_limited() {
    let folder = Folder::new();
    let mut source = folder.open();
    let mut senders: Vec<_> = (0..CONNECTIONS_MAX).map(|_| folder.sender(&mut source)).collect();
    for sender in &mut senders {
        sender.write_all(&data(&message(RESOLVER_RESPONSE, ""))).unwrap();
    }
    assert_eq!(next(&mut source, CONNECTIONS_MAX).len(), CONNECTIONS_MAX);
    let mut extra = folder.connect();
    let sentence = ended(&mut source, "dnstap_connections_refused_limit");
    assert!(sentence.ends_with("is refused: 64 connections are open already"), "{sentence}");
    assert_eq!(extra.read(&mut [0]).unwrap(), 0);
    drop(senders);
    until(&mut source, |report| report.peers.is_empty());
    folder.sender(&mut source);
}

#[test]
fn who_keeps_silent_holds_no_place() {
    let folder = Folder::new();
    let mut source = folder.open();
    let mut resolver = folder.sender(&mut source);
    resolver.write_all(&data(&message(RESOLVER_RESPONSE, "one 1.0"))).unwrap();
    assert_eq!(next(&mut source, 1).len(), 1);
    let mut silent: Vec<_> = (1..CONNECTIONS_MAX).map(|_| folder.sender(&mut source)).collect();
    let mut second = folder.sender(&mut source);
    let report = source.reports().latest();
    assert_eq!(count(&report, "dnstap_connections_refused_limit"), 1);
    assert_eq!(report.peers.len(), CONNECTIONS_MAX);
    let sentence = report.last_refusal.unwrap();
    assert!(
        sentence.contains("it has sent nothing of a resolver's, and 64 connections are open"),
        "{sentence}"
    );
    // The oldest of the silent ones went; the others, and whoever has spoken, stay.
    assert_eq!(silent[0].read(&mut [0]).unwrap(), 0);
    for (number, sender) in [&mut resolver, &mut silent[1], &mut second].into_iter().enumerate() {
        sender.write_all(&data(&[number as u8])).unwrap();
        assert_eq!(next(&mut source, 1), [[number as u8]]);
    }
}

#[test]
fn tcp_is_taken_from_the_senders_listed() {
    let mut source = DnstapSource::new(PATIENCE);
    let mut listen = |senders: &str| {
        let senders = Some(Resolvers::parse(&[senders]).unwrap());
        source.listen("tcp:0.0.0.0:0", Access { senders, ..Access::default() }).unwrap().unwrap()
    };
    let (ours, others) = (listen("127.0.0.0/8"), listen("192.0.2.53"));
    let mut stream = TcpStream::connect(("127.0.0.1", others)).unwrap();
    let sentence = ended(&mut source, "dnstap_connections_refused_sender");
    assert!(sentence.ends_with("is refused: its address is none of the senders listed"), "{sentence}");
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    let stream = TcpStream::connect(("127.0.0.1", ours)).unwrap();
    let mut stream = sender(&mut source, stream);
    stream.write_all(&data(b"frame")).unwrap();
    assert_eq!(next(&mut source, 1), [b"frame"]);
}

#[test]
fn what_was_sent_before_the_end_is_read() {
    let folder = Folder::new();
    let mut source = folder.open();
    let mut senders = [folder.sender(&mut source), folder.sender(&mut source)];
    for sender in &mut senders {
        sender.write_all(&data(b"frame").repeat(100)).unwrap();
        sender.write_all(&data(b"half a frame")[..9]).unwrap();
    }
    source.drain();
    assert_eq!(UnixStream::connect(folder.socket()).unwrap_err().kind(), ErrorKind::NotFound);
    let mut frames = 0;
    loop {
        match source.next(Duration::from_secs(10)).unwrap() {
            Event::Dnstap(_) => frames += 1,
            Event::End => break,
            event => assert!(matches!(event, Event::Idle), "{event:?}"),
        }
    }
    assert_eq!(frames, 200);
}

#[test]
fn who_never_stops_ends_all_the_same() {
    let folder = Folder::new();
    let mut source = folder.open();
    let mut endless = folder.sender(&mut source);
    endless.set_nonblocking(true).unwrap();
    source.drain();
    let start = Instant::now();
    while !matches!(source.next(MOMENT).unwrap(), Event::End) {
        assert!(start.elapsed() < Duration::from_secs(5));
        let _ = endless.write(&data(b"x").repeat(10));
    }
}

#[test]
fn nothing_is_lost_while_nobody_reads() {
    let folder = Folder::new();
    let mut source = folder.open();
    let mut sender = folder.sender(&mut source);
    sender.set_nonblocking(true).unwrap();
    let frame = data(&[7; 1000]);
    // The kernel's buffer bounds what waits; a real sender drops the rest by itself.
    let mut sent = 0;
    loop {
        match sender.write(&frame[sent % frame.len()..]) {
            Ok(octets) => sent += octets,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    let whole = sent / frame.len();
    assert_eq!(next(&mut source, whole), vec![vec![7; 1000]; whole]);
}

#[test]
fn the_file_of_a_socket() {
    let folder = Folder::new();
    // What a program that was killed leaves behind.
    drop(UnixListener::bind(folder.socket()).unwrap());
    assert!(folder.socket().exists());
    let access = Access { mode: 0o600, ..Access::default() };
    let mut source = DnstapSource::new(PATIENCE);
    source.listen(&folder.endpoint(), access).unwrap();
    assert_eq!(fs::metadata(folder.socket()).unwrap().permissions().mode() & 0o7777, 0o600);
    assert!(
        refused(&folder.endpoint()).ends_with("another program listens there; stop it or take another path")
    );
    drop(source);
    assert!(!folder.socket().exists());

    let source = folder.open();
    assert_eq!(fs::metadata(folder.socket()).unwrap().permissions().mode() & 0o7777, 0o660);
    fs::remove_file(folder.socket()).unwrap();
    fs::write(folder.socket(), "kept").unwrap();
    drop(source);
    assert!(
        refused(&folder.endpoint())
            .ends_with("a file that is no socket is there; remove it or take another path")
    );
    assert_eq!(fs::read_to_string(folder.socket()).unwrap(), "kept");
}

#[test]
fn endpoints_that_are_refused() {
    for wrong in ["", "unix:", "unix:relative", "udp:127.0.0.1:6000", "tcp:localhost:6000", "tcp:127.0.0.1"] {
        assert!(refused(wrong).contains("must be unix:/PATH or tcp:ADDRESS:PORT"), "{wrong}");
    }
    assert!(refused("tcp:0.0.0.0:0").contains("can be reached from other hosts"));
    let missing = DnstapSource::new(PATIENCE).listen("unix:/nonexistent/socket", Access::default());
    assert!(matches!(missing, Err(CaptureError::Listen { action: "making the socket", .. })));
}
