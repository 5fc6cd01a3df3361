//! What clients of the cache are promised.
#![cfg(target_os = "linux")]

mod support;

use std::collections::VecDeque;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use heirloom_testkit::Rng;
use heirloom_testkit::service::Manager;
use rustix::process::Signal;
use support::{
    Begun, CACHE, CRASHING, Client, Life, NEXT, Program, Reply, bulk, ok, request, start, start_at,
};

/// A port of the system's choice, 64 MiB, and two threads however many processors there are.
const OPTIONS: [&str; 6] = ["--listen", "127.0.0.1:0", "--memory", "64", "--threads", "2"];

/// A cache that no service manager has, and a client.
fn alone(options: &[&str]) -> (Life, Begun, Client) {
    let mut life = Life::alone(Path::new(CACHE), options);
    let begun = life.begins();
    let client = Client::new(&begun.at);
    (life, begun, client)
}

fn error(text: &str) -> Reply {
    Reply::Error(text.to_owned())
}

#[test]
fn commands_do_what_they_do_elsewhere() {
    let (_life, _, mut client) = alone(&OPTIONS);
    let table: &[(&str, Reply)] = &[
        ("PING", Reply::Simple("PONG".to_owned())),
        ("ping hello", bulk("hello")),
        ("ECHO hello", bulk("hello")),
        ("GET a", Reply::Null),
        ("SET a 1", ok()),
        ("GET a", bulk("1")),
        ("SET a 2 NX", Reply::Null),
        ("SET b 2 XX", Reply::Null),
        ("SET b 2 NX", ok()),
        ("SET b 3 XX", ok()),
        ("MGET a b c", Reply::Array(vec![bulk("1"), bulk("3"), Reply::Null])),
        ("EXISTS a b c a", Reply::Integer(3)),
        ("DBSIZE", Reply::Integer(2)),
        ("TTL a", Reply::Integer(-1)),
        ("TTL c", Reply::Integer(-2)),
        ("EXPIRE c 10", Reply::Integer(0)),
        ("EXPIRE a 100", Reply::Integer(1)),
        ("TTL a", Reply::Integer(100)),
        ("SET a 5 EX 50", ok()),
        ("TTL a", Reply::Integer(50)),
        ("SET a 6", ok()),
        ("TTL a", Reply::Integer(-1)),
        ("SET a 7 ex 1 px 1", error("ERR syntax error")),
        ("SET a 7 NX XX", error("ERR syntax error")),
        ("SET a 7 EX", error("ERR syntax error")),
        ("SET a 7 EX 0", error("ERR invalid expire time")),
        ("SET a 7 EX x", error("ERR value is not an integer or out of range")),
        ("EXPIRE a -1", Reply::Integer(1)),
        ("GET a", Reply::Null),
        ("DEL a b", Reply::Integer(1)),
        ("DBSIZE", Reply::Integer(0)),
        ("SELECT 0", ok()),
        ("SELECT 1", error("ERR DB index is out of range")),
        ("CLIENT SETINFO LIB-NAME x", ok()),
        ("CONFIG GET save", Reply::Array(vec![bulk("save"), bulk("")])),
        ("COMMAND", Reply::Array(vec![])),
        ("GET", error("ERR unknown command 'GET', or not so many words")),
        ("NONE a", error("ERR unknown command 'NONE', or not so many words")),
        ("SCAN x", error("ERR value is not an integer or out of range")),
        ("SCAN 0 MATCH", error("ERR syntax error")),
        ("SCAN 0 COUNT 10 MATCH", error("ERR syntax error")),
    ];
    for (asked, expected) in table {
        assert_eq!(client.say(asked), *expected, "{asked}");
    }
    assert!(matches!(client.say("HELLO 2"), Reply::Array(fields) if fields.len() == 6));
    assert_eq!(client.say("HELLO 4"), error("NOPROTO unsupported protocol version"));
    // In RESP 3 there are maps, and a null.
    assert!(matches!(client.say("HELLO 3"), Reply::Map(fields) if fields.len() == 6));
    client.send(&request(&[b"GET", b"a"]));
    let mut null = [0; 3];
    client.read_exact(&mut null);
    assert_eq!(&null, b"_\r\n");
    assert!(matches!(client.say("HELLO 2"), Reply::Array(_)));
    // A line is a request, and many may come at once.
    client.send(b"SET inline 1\r\n\r\nGET inline\r\n*1\r\n$4\r\nPING\r\n");
    assert_eq!((client.reply(), client.reply()), (ok(), bulk("1")));
    assert_eq!(client.reply(), Reply::Simple("PONG".to_owned()));
    assert_eq!(client.ask(&[b"SET", b"bin\r\n\0", b"\xff\r\n"]), ok());
    assert_eq!(client.ask(&[b"GET", b"bin\r\n\0"]), Reply::Bulk(b"\xff\r\n".to_vec()));
    assert_eq!(client.say("FLUSHALL"), ok());
    assert_eq!(client.say("DBSIZE"), Reply::Integer(0));
    assert_eq!(client.say("QUIT"), ok());
    assert!(client.try_reply().is_err(), "it has ended");
    // What is no request is answered, and ends the connection.
    let (_life, begun, _) = alone(&OPTIONS);
    let mut other = Client::new(&begun.at);
    other.send(b"*1\r\n:1\r\n");
    assert_eq!(other.reply(), error("ERR Protocol error: expected '$'"));
    assert!(other.try_reply().is_err());
}

#[test]
fn a_value_is_there_until_it_expires() {
    let (_life, _, mut client) = alone(&OPTIONS);
    assert_eq!(client.say("SET long 1 PX 100000000"), ok());
    assert_eq!(client.say("SET a 1 PX 30"), ok());
    // The clock goes on while it is asked.
    while client.say("GET a") != Reply::Null {}
    assert_eq!(client.say("TTL a"), Reply::Integer(-2));
    assert_eq!(client.say("EXISTS a long"), Reply::Integer(1));
    assert_eq!(client.say("SET a 2 NX"), ok());
    let Reply::Integer(left) = client.say("PTTL long") else { panic!() };
    assert!((90_000_000..=100_000_000).contains(&left), "{left}");
}

#[test]
fn a_scan_tells_all_keys() {
    let (_life, _, mut client) = alone(&OPTIONS);
    for n in 0..5000 {
        client.send(&request(&[b"SET", format!("key:{n}").as_bytes(), b"x"]));
    }
    for _ in 0..5000 {
        assert_eq!(client.reply(), ok());
    }
    let mut found = std::collections::BTreeSet::new();
    let mut cursor = "0".to_owned();
    let mut calls = 0;
    loop {
        let Reply::Array(parts) = client.say(&format!("SCAN {cursor} MATCH key:*7 COUNT 100"))
        else {
            panic!()
        };
        let [Reply::Bulk(next), Reply::Array(keys)] = &parts[..] else { panic!("{parts:?}") };
        for key in keys {
            let Reply::Bulk(key) = key else { panic!("{key:?}") };
            found.insert(String::from_utf8(key.clone()).unwrap());
        }
        calls += 1;
        cursor = String::from_utf8(next.clone()).unwrap();
        if cursor == "0" {
            break;
        }
    }
    let expected: std::collections::BTreeSet<_> =
        (0..5000).filter(|n| n % 10 == 7).map(|n| format!("key:{n}")).collect();
    assert_eq!(found, expected);
    assert!(calls > 10, "a call tells a part: {calls} calls");
}

#[test]
fn connections_live_through_a_jump() {
    let program = Program::new("jump", CACHE);
    let mut life = Life::alone(&program.0, &OPTIONS);
    let first = life.begins();
    assert_eq!((first.items, first.generation), (0, 0));

    // One has asked half of something: what it asked before was answered, so the half was read.
    let mut half = Client::new(&first.at);
    let large = vec![b'v'; 400_000];
    let asked = request(&[b"SET", b"large", &large]);
    half.send(&[&request(&[b"PING"])[..], &asked[..70_000]].concat());
    assert_eq!(half.reply(), Reply::Simple("PONG".to_owned()));
    // One has asked for more than it reads: the rest waits in the process.
    let mut unread = Client::new(&first.at);
    assert_eq!(unread.ask(&[b"SET", b"other", &large]), ok());
    let many = request(&[b"GET", b"other"]).repeat(40);
    unread.send(&many);
    assert!(unread.reply() == Reply::Bulk(large.clone()));
    // One speaks RESP 3, and others wait.
    let mut third = Client::new(&first.at);
    assert!(matches!(third.say("HELLO 3"), Reply::Map(_)));
    let mut idle: Vec<_> = (0..50).map(|_| Client::new(&first.at)).collect();
    for client in &mut idle {
        assert_eq!(client.say("EXISTS other"), Reply::Integer(1));
    }

    program.becomes(NEXT);
    life.signal(Signal::USR2);
    let second = life.begins();
    assert_eq!(second.build, "heirloom-cache next");
    assert_eq!((second.items, second.generation, second.how.as_str()), (1, 1, "warm"));
    assert_eq!((second.connections, &second.at), (53, &first.at));
    half.send(&asked[70_000..80_000]);
    // Again, and twice at once: the second signal finds a process that does not catch any yet, or one that does.
    life.signal(Signal::USR2);
    life.signal(Signal::USR2);
    let third_life = life.begins();
    assert_eq!((third_life.generation, third_life.connections), (2, 53));

    half.send(&asked[80_000..]);
    assert_eq!(half.reply(), ok());
    for _ in 1..40 {
        assert!(unread.reply() == Reply::Bulk(large.clone()));
    }
    assert!(unread.say("GET large") == Reply::Bulk(large));
    assert!(matches!(third.say("HELLO"), Reply::Map(_)), "it speaks RESP 3 still");
    for client in &mut idle {
        assert_eq!(client.say("EXISTS large other"), Reply::Integer(2));
    }
    // A build that is not there is no end: it goes on as it is.
    std::fs::remove_file(&program.0).unwrap();
    life.signal(Signal::USR2);
    while !life.says().unwrap().contains("goes on: ") {}
    assert_eq!(idle[0].say("EXISTS large other"), Reply::Integer(2));
    life.signal(Signal::TERM);
    assert!(life.ends().0.success());
}

/// KiB of the arena that a process has touched.
fn touched(client: &mut Client) -> u64 {
    let status = format!("/proc/{}/status", client.info("process_id"));
    let status = std::fs::read_to_string(status).unwrap();
    let touched =
        status.lines().find_map(|line| line.strip_prefix("RssShmem:")?.strip_suffix("kB"));
    touched.unwrap().trim().parse().unwrap()
}

#[test]
fn a_successor_begins_without_a_look_at_the_items() {
    let options = ["--listen", "127.0.0.1:0", "--memory", "128", "--threads", "1"];
    let mut life = Life::alone(Path::new(CACHE), &options);
    let mut client = Client::new(&life.begins().at);
    for first in (0..400_000_u32).step_by(1000) {
        let sets = (first..first + 1000).map(|n| request(&[b"SET", &n.to_le_bytes(), &[7; 128]]));
        client.send(&sets.flatten().collect::<Vec<u8>>());
        for _ in 0..1000 {
            assert_eq!(client.reply(), ok());
        }
    }
    let before = touched(&mut client);
    life.signal(Signal::USR2);
    assert_eq!(life.begins().items, 400_000);
    let behind = touched(&mut client);
    // What it does look at is the allocator's, and a few places in each of sixteen maps, around which Linux maps 64 KiB. One look
    // at each slab would map all.
    assert!(before > 64 << 10, "{before} KiB");
    assert!(behind < 16 << 10, "{behind} KiB of {before}");
}

#[test]
fn what_is_flushed_gives_its_memory_back() {
    let (_life, _, mut client) = alone(&OPTIONS);
    let used = |client: &mut Client| client.info("used_memory").parse::<u64>().unwrap();
    let before = used(&mut client);
    for command in ["FLUSHALL", "FLUSHDB"] {
        for first in (0..40_000_u32).step_by(1000) {
            let sets =
                (first..first + 1000).map(|n| request(&[b"SET", &n.to_le_bytes(), &[7; 64]]));
            client.send(&sets.flatten().collect::<Vec<u8>>());
            (0..1000).for_each(|_| assert_eq!(client.reply(), ok()));
        }
        let filled = used(&mut client);
        assert_eq!(client.say(command), ok());
        assert_eq!(client.say("DBSIZE"), Reply::Integer(0));
        let behind = used(&mut client);
        println!("{command}: {before} bytes before, {filled} filled, {behind} behind");
        // A segment of buckets is left of each map, and what caches keep.
        assert!(filled > before + 40_000 * 96 && behind - before < (filled - before) / 4);
    }
}

#[test]
fn what_a_client_does_not_read_takes_no_more_memory_than_it_may() {
    let program = Program::new("unread", CACHE);
    let mut life =
        Life::alone(&program.0, &["--listen", "127.0.0.1:0", "--memory", "16", "--threads", "1"]);
    let begun = life.begins();
    let mut other = Client::new(&begun.at);
    let large = vec![b'v'; 500_000];
    assert_eq!(other.ask(&[b"SET", b"large", &large]), ok());
    // A few kilobytes that ask for 300 MB, and the end of what this client asks.
    let mut unread = Client::new(&begun.at);
    unread.send(&[&b"GET large\r\n".repeat(600)[..], b"ECHO end\r\n"].concat());
    unread.socket.shutdown(std::net::Shutdown::Write).unwrap();
    // The one thread attends to what came first, then to this.
    for _ in 0..10 {
        assert_eq!(other.say("EXISTS large"), Reply::Integer(1));
    }
    let status = format!("/proc/{}/status", other.info("process_id"));
    let status = std::fs::read_to_string(status).unwrap();
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB"));
    let most: u64 = most.unwrap().trim().parse().unwrap();
    assert!(most < 160 << 10, "{most} KiB at most");
    // What it asked is answered as it reads, by a successor as well.
    life.signal(Signal::USR2);
    assert_eq!(life.begins().connections, 2);
    for n in 0..600 {
        assert!(unread.reply() == Reply::Bulk(large.clone()), "answer {n}");
    }
    assert_eq!(unread.reply(), bulk("end"));
    assert!(unread.try_reply().is_err(), "it has ended");
}

#[test]
fn where_descriptors_are_few_it_jumps_with_all_clients_and_turns_others_away() {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 64; exec \"$0\" \"$@\"", CACHE]).args(OPTIONS);
    let mut life = Life::of(command);
    let begun = life.begins();
    let mut clients = Vec::new();
    for _ in 0..60 {
        let mut client = Client::new(&begun.at);
        // Left waiting would be as wrong.
        client.socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        // One that is turned away may find that out as it sends, or as it reads.
        if client.socket.write_all(&request(&[b"PING"])).is_ok() && client.try_reply().is_ok() {
            clients.push(client);
        }
    }
    assert_eq!(clients.len(), 15, "(64 - 32 - 2 threads) / 2");
    life.signal(Signal::USR2);
    let next = life.begins();
    assert_eq!((next.generation, next.connections), (1, 15));
    for client in &mut clients {
        assert_eq!(client.say("PING"), Reply::Simple("PONG".to_owned()));
    }
}

#[test]
fn what_was_acknowledged_is_there_after_a_kill() {
    let manager = Manager::new("kill");
    let seed = 0x5eed_cafe;
    println!("seed {seed:#x}");
    let mut random = Rng::new(seed);
    let mut life = start(&manager, Path::new(CACHE), &OPTIONS);
    let at = life.begins().at;
    let writers = 2;
    // What each writer wrote of each key: acknowledged last, and asked for last.
    let mut known: Vec<Vec<(u64, u64)>> = vec![vec![(0, 0); 3000]; writers];
    for death in 1..=6 {
        thread::scope(|scope| {
            for (writer, known) in known.iter_mut().enumerate() {
                // How many answers come before it is killed, by whichever writer has them first.
                let (until, seed) = (1000 + random.below(4000), Rng::new(random.next()));
                // A connection that is not taken yet when the process dies waits for the next.
                let (mut client, life) = (Client::new(&at), &life);
                assert_eq!(client.say("PING"), Reply::Simple("PONG".to_owned()));
                scope.spawn(move || {
                    write(&mut client, writer, known, seed, |answers| {
                        if answers == until {
                            life.signal(Signal::KILL);
                        }
                    });
                });
            }
        });
        life.ends();
        life = start(&manager, Path::new(if death % 2 == 0 { CACHE } else { NEXT }), &OPTIONS);
        let begun = life.begins();
        assert_eq!((begun.generation, begun.how.as_str()), (death, "warm"));
        assert_eq!(begun.at, at, "the socket is the one that it had");
        let mut client = Client::new(&at);
        for (writer, known) in known.iter_mut().enumerate() {
            for (n, (acknowledged, asked)) in known.iter_mut().enumerate() {
                let found = match client.say(&format!("GET {writer}:{n}")) {
                    Reply::Null => 0,
                    Reply::Bulk(value) => version(&value),
                    other => panic!("{other:?}"),
                };
                assert!(
                    (*acknowledged..=*asked).contains(&found),
                    "death {death}, key {writer}:{n}: {acknowledged} was acknowledged, {asked} asked for, {found} is there"
                );
                (*acknowledged, *asked) = (found, found);
            }
        }
    }
}

/// The value of a version: its length is a matter of the version, and all of it tells the version.
fn value(version: u64) -> Vec<u8> {
    let mut value = format!("{version} ").into_bytes();
    let length = [20, 100, 300, 5000][version as usize % 4];
    value.resize(length, b'a' + (version % 26) as u8);
    value
}

fn version(found: &[u8]) -> u64 {
    let text = std::str::from_utf8(found).unwrap();
    let version = text.split(' ').next().unwrap().parse().unwrap();
    assert_eq!(found, value(version), "a value is whole");
    version
}

/// Writes, many at once, until the process dies, and says how many answers came.
fn write(
    client: &mut Client,
    writer: usize,
    known: &mut [(u64, u64)],
    mut random: Rng,
    answered: impl Fn(u64),
) {
    // What was asked for and is not answered, in order.
    let mut pending = VecDeque::new();
    let mut answers = 0;
    loop {
        let mut bytes = Vec::new();
        for _ in 0..100 {
            let n = random.below(known.len() as u64) as usize;
            known[n].1 += 1;
            let key = format!("{writer}:{n}");
            bytes.extend(request(&[b"SET", key.as_bytes(), &value(known[n].1)]));
            pending.push_back((n, known[n].1));
        }
        let died = client.socket.write_all(&bytes).is_err();
        // Many are on their way at any instant; once it has died, what it had answered is still to be read.
        while died || pending.len() > 50 {
            let Some((n, version)) = pending.pop_front() else { return };
            match client.try_reply() {
                Ok(reply) => assert_eq!(reply, ok()),
                Err(_) => return,
            }
            known[n].0 = version;
            answers += 1;
            answered(answers);
        }
    }
}

#[test]
fn builds_that_crash_as_they_start_lose_nothing() {
    let manager = Manager::new("crash");
    let mut life = start(&manager, Path::new(CACHE), &OPTIONS);
    let begun = life.begins();
    let mut client = Client::new(&begun.at);
    for n in 0..2000 {
        assert_eq!(client.say(&format!("SET key:{n} value:{n}")), ok());
    }
    life.kill();
    for step in 0..6 {
        let (status, said) = start_at(&manager, Path::new(CRASHING), &OPTIONS, step).ends();
        assert!(!status.success() && said.is_empty(), "{status}: {said}");
    }
    let mut life = start(&manager, Path::new(NEXT), &OPTIONS);
    let again = life.begins();
    assert_eq!((again.how.as_str(), &again.at), ("warm", &begun.at));
    let mut client = Client::new(&again.at);
    for n in 0..2000 {
        assert_eq!(client.say(&format!("GET key:{n}")), bulk(&format!("value:{n}")));
    }
    // The last of them wrote, too.
    assert_eq!(client.say("EXISTS crashing:1000 crashing:1001"), Reply::Integer(1));
}

#[test]
fn a_jump_into_a_build_that_crashes_loses_connections_alone() {
    let manager = Manager::new("into-crash");
    let program = Program::new("into-crash", CACHE);
    let mut life = start_at(&manager, &program.0, &OPTIONS, 3);
    let begun = life.begins();
    let mut client = Client::new(&begun.at);
    assert_eq!(client.say("SET a 1"), ok());
    program.becomes(CRASHING);
    life.signal(Signal::USR2);
    assert!(!life.ends().0.success());
    assert!(client.try_reply().is_err());
    // A client that comes meanwhile waits.
    let mut client = Client::new(&begun.at);
    client.send(&request(&[b"GET", b"a"]));
    program.becomes(CACHE);
    let mut life = start(&manager, &program.0, &OPTIONS);
    assert_eq!(life.begins().how, "warm");
    assert_eq!(client.reply(), bulk("1"));
}

#[test]
fn a_full_cache_takes_what_is_new_and_keeps_what_is_used() {
    let manager = Manager::new("full");
    let options = ["--listen", "127.0.0.1:0", "--memory", "16", "--threads", "2"];
    let mut life = start(&manager, Path::new(CACHE), &options);
    let mut client = Client::new(&life.begins().at);
    let seed = 0x5eed_f011;
    println!("seed {seed:#x}");
    let mut random = Rng::new(seed);
    // Items that are read again and again, and as many that never are.
    let value = vec![b'u'; 2000];
    for n in 0..50 {
        for kind in ["used", "unused"] {
            let key = format!("{kind}:{n}");
            assert_eq!(client.ask(&[b"SET", key.as_bytes(), &value]), ok());
        }
    }
    let (mut hits, mut again, mut items) = (0, 0, 20_000);
    for n in 0..items {
        let value = vec![b'a' + (n % 26) as u8; 100 + random.below(4000) as usize];
        assert_eq!(client.ask(&[b"SET", format!("key:{n}").as_bytes(), &value]), ok(), "item {n}");
        let key = format!("used:{}", n % 50);
        if client.say(&format!("EXISTS {key}")) == Reply::Integer(1) {
            hits += 1;
            assert!(matches!(client.say(&format!("GET {key}")), Reply::Bulk(_)));
        } else {
            again += 1;
            assert_eq!(client.ask(&[b"SET", key.as_bytes(), &value]), ok());
        }
    }
    assert!(hits > 95 * again, "{hits} of what is used were there, {again} were not");
    let mut left = 0;
    for n in 0..50 {
        left += u32::from(client.say(&format!("EXISTS unused:{n}")) == Reply::Integer(1));
    }
    assert!(left < 10, "{left} of 50 that are not used are there still");
    // 40 MiB were written to 16.
    let evicted: u64 = client.info("evicted_keys").parse().unwrap();
    let Reply::Integer(there) = client.say("DBSIZE") else { panic!() };
    items = items + 100 + again - evicted;
    assert_eq!(there.unsigned_abs(), items);
    assert!(items > 4000, "{items} items in 16 MiB");
    // What is as large as nothing before it needs memory that lies together.
    let large = vec![b'l'; 400_000];
    assert_eq!(client.ask(&[b"SET", b"large", &large]), ok());
    let Reply::Integer(left) = client.say("DBSIZE") else { panic!() };
    assert!(left > there / 2, "{left} of {there} are left");
    let long = client.ask(&[b"SET", b"long", &vec![b'l'; 600_000]]);
    assert!(matches!(&long, Reply::Error(text) if text.contains("600000 bytes")), "{long:?}");
    // As full as it is, a successor takes over, and takes what is new.
    life.kill();
    let mut life = start(&manager, Path::new(NEXT), &options);
    let begun = life.begins();
    assert_eq!(begun.how, "warm");
    let mut client = Client::new(&begun.at);
    match client.ask(&[b"GET", b"large"]) {
        Reply::Bulk(found) => assert!(found == large),
        other => panic!("{other:?}"),
    }
    for n in 0..2000 {
        assert_eq!(client.ask(&[b"SET", format!("new:{n}").as_bytes(), &[b'n'; 2000]]), ok());
    }
}

#[test]
fn a_full_cache_that_is_read_meanwhile_takes_what_is_new() {
    let options = ["--listen", "127.0.0.1:0", "--memory", "16", "--threads", "4"];
    let (_life, begun, mut client) = alone(&options);
    let seed = 0x5eed_0bee;
    println!("seed {seed:#x}");
    let (mut random, done) = (Rng::new(seed), AtomicBool::new(false));
    thread::scope(|scope| {
        for _ in 0..3 {
            let (mut random, mut client) = (Rng::new(random.next()), Client::new(&begun.at));
            let done = &done;
            scope.spawn(move || {
                while !done.load(Relaxed) {
                    let mut asked = Vec::new();
                    for _ in 0..100 {
                        let key = format!("key:{}", random.below(6000));
                        asked.extend(request(&[b"GET", key.as_bytes()]));
                    }
                    client.send(&asked);
                    for _ in 0..100 {
                        match client.reply() {
                            Reply::Null => {}
                            // All of it is of one item, and as long as that said it is.
                            Reply::Bulk(value) => {
                                assert!(value.iter().all(|byte| *byte == value[0]));
                                assert_eq!(value.len(), 1000 + usize::from(value[0]));
                            }
                            other => panic!("{other:?}"),
                        }
                    }
                }
            });
        }
        for n in 0..30_000_u64 {
            let byte = random.below(250) as u8;
            let value = vec![byte; 1000 + usize::from(byte)];
            let key = format!("key:{}", random.below(30_000));
            let answer = client.ask(&[b"SET", key.as_bytes(), &value]);
            assert_eq!(answer, ok(), "item {n}");
        }
        assert_eq!(client.say("FLUSHALL"), ok());
        done.store(true, Relaxed);
    });
    assert_ne!(client.info("evicted_keys"), "0");
    assert_eq!(client.say("DBSIZE"), Reply::Integer(0));
}
