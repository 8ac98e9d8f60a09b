//! A real socket with a peer that sends what it is told to, in pieces.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::*;

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    [&[tag], &(body.len() as u32 + 4).to_be_bytes()[..], body].concat()
}

fn error(severity: &str, state: &str) -> Vec<u8> {
    message(b'E', format!("S{severity}\0V{severity}\0C{state}\0Mwhy\0\0").as_bytes())
}

/// Sends `question`, is answered with `pieces` and then with the end of the connection; returns what came of it, and
/// the tags of the completed commands.
async fn ask(pieces: Vec<Vec<u8>>) -> (Answer, Vec<String>, Wire) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut wire = Wire::new(Stream::Unix(ours)).unwrap();
    let peer = async move {
        let mut question = [0; 8];
        theirs.read_exact(&mut question).await.unwrap();
        assert_eq!(&question, b"question");
        for piece in pieces {
            theirs.write_all(&piece).await.unwrap();
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let mut tags = Vec::new();
    let asking = wire.exchange(Outgoing::plain(b"question"), |_, tag| tags.push(String::from_utf8_lossy(tag).into()));
    let (answer, ()) = tokio::join!(asking, peer);
    (answer, tags, wire)
}

#[tokio::test(flavor = "current_thread")]
async fn answers_are_read_in_whatever_pieces_they_come() {
    let answers = [
        message(b'1', b""),
        message(b'N', b"SNOTICE\0Mhm\0\0"),
        message(b'2', b""),
        message(b'C', b"BEGIN\0"),
        message(b'S', b"name\0value\0"),
        message(b'C', b"INSERT 0 1\0"),
        message(b'Z', b"T"),
    ]
    .concat();
    for length in [1, 3, 7, answers.len()] {
        let (answer, tags, wire) = ask(answers.chunks(length).map(<[u8]>::to_vec).collect()).await;
        assert_eq!(tags, ["BEGIN", "INSERT 0 1"]);
        assert!(answer.in_transaction && answer.failure.is_none() && wire.end().is_none(), "{answer:?}");
        assert_eq!((answer.completed, wire.sent()), (2, 8));
    }
}

#[tokio::test(flavor = "current_thread")]
async fn an_error_leaves_the_session_alive_and_a_fatal_one_does_not() {
    let (answer, _, wire) = ask(vec![[error("ERROR", "23505"), message(b'Z', b"E")].concat()]).await;
    assert_eq!(answer.failure.unwrap().sqlstate.as_deref(), Some("23505"));
    assert!(answer.in_transaction && wire.end().is_none());

    let (answer, _, wire) = ask(vec![error("FATAL", "57P01")]).await;
    assert_eq!(answer.failure.as_ref().unwrap().sqlstate.as_deref(), Some("57P01"));
    assert_eq!(wire.end(), answer.failure.as_ref());
}

#[tokio::test(flavor = "current_thread")]
async fn a_connection_that_ends_says_so_and_what_came_before_counts() {
    let (answer, tags, wire) = ask(vec![message(b'C', b"COMMIT\0")]).await;
    assert_eq!(tags, ["COMMIT"]);
    assert!(answer.failure.unwrap().connection_lost && wire.end().is_some());
}

#[tokio::test(flavor = "current_thread")]
async fn a_long_error_is_read_whole() {
    let detail = "x".repeat(300_000);
    let body = format!("SERROR\0VERROR\0C22000\0Mwhy\0D{detail}\0\0");
    let (answer, ..) = ask(vec![message(b'E', body.as_bytes()), message(b'Z', b"I")]).await;
    // What comes behind it is only understood where all of it was read; of its words the first are kept.
    assert!(!answer.in_transaction);
    assert!(answer.failure.unwrap().message.starts_with("ERROR: why (xxx"));
}

#[tokio::test(flavor = "current_thread")]
async fn what_is_not_the_protocol_ends_the_connection() {
    for garbage in [
        b"C\xff\xff\xff\xffx".to_vec(),
        b"C\0\0\0\x03".to_vec(),
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        message(b'D', b"\0\0"),
        message(b'G', b"\0\0\0"),
        message(b'R', b"\0\0\0\0"),
    ] {
        let (answer, _, wire) = ask(vec![garbage.clone()]).await;
        let failure = answer.failure.unwrap();
        assert_eq!((&*failure.class, failure.connection_lost), ("protocol error", true), "{garbage:?}: {failure:?}");
        assert!(wire.end().is_some());
    }
}

#[tokio::test(flavor = "current_thread")]
async fn more_than_a_socket_holds_is_sent_whole_while_the_peer_is_slow() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut wire = Wire::new(Stream::Unix(ours)).unwrap();
    let long: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    let peer = async {
        let mut got = vec![0; long.len()];
        for piece in got.chunks_mut(100_000) {
            theirs.read_exact(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        theirs.write_all(&message(b'Z', b"I")).await.unwrap();
        got
    };
    let (answer, got) = tokio::join!(wire.exchange(Outgoing::plain(&long), |_, _| {}), peer);
    assert!(answer.failure.is_none() && got == long);
    assert_eq!(wire.sent(), long.len());
}

#[tokio::test(flavor = "current_thread")]
async fn a_farewell_while_idle_is_heard() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mut wire = Wire::new(Stream::Unix(ours)).unwrap();
    theirs.write_all(&message(b'S', b"name\0value\0")).await.unwrap();
    let idle = tokio::time::timeout(Duration::from_millis(50), wire.until_ended()).await;
    assert!(idle.is_err() && wire.end().is_none());
    theirs.write_all(&error("FATAL", "57P01")).await.unwrap();
    wire.until_ended().await;
    assert_eq!(wire.end().unwrap().sqlstate.as_deref(), Some("57P01"));
}
