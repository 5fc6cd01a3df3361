//! What each command does.

use std::error::Error;
use std::str::FromStr;
use std::sync::atomic::Ordering::Relaxed;

use crate::cache::Cache;
use crate::glob;
use crate::reply::Replies;
use crate::store::{NEVER, Shared};

const SYNTAX: &str = "ERR syntax error";
const TIME: &str = "ERR invalid expire time";

/// The version of Redis whose commands these are: clients ask.
const LIKE: &str = "7.0.0";

/// The most keys that `SCAN` looks at in one call.
const MOST: u64 = 100_000;

/// Why a command is not carried out.
type Answered = Result<(), Box<dyn Error>>;

/// Requests of a client that came together, and what they are answered.
pub(crate) struct Session<'s, 'h> {
    pub(crate) cache: &'s Cache<'h>,
    /// The time at which they are carried out: milliseconds since 1970.
    pub(crate) now: u64,
    pub(crate) to: &'s mut Replies,
}

impl Session<'_, '_> {
    /// Answers a request. Returns whether the connection goes on.
    pub(crate) fn answer(&mut self, words: &[&[u8]]) -> bool {
        // An empty line is no request.
        let [name, words @ ..] = words else { return true };
        let mut upper = [0; 16];
        let upper = &mut upper[..name.len().min(16)];
        upper.copy_from_slice(&name[..upper.len()]);
        upper.make_ascii_uppercase();
        if let Err(error) = self.carry_out(upper, words) {
            let store = error.downcast_ref::<heirloom_collections::Error>();
            let kind =
                store.map_or("", |error| if error.is_out_of_memory() { "OOM " } else { "ERR " });
            self.to.error(&format!("{kind}{error}"));
        }
        upper != b"QUIT"
    }

    fn carry_out(&mut self, name: &[u8], words: &[&[u8]]) -> Answered {
        let (store, now) = (&self.cache.store, self.now);
        match (name, words) {
            (b"GET", [key]) => self.get(key)?,
            (b"MGET", [_, ..]) => {
                self.to.array(words.len());
                words.iter().try_for_each(|key| self.get(key))?;
            }
            (b"SET", [key, value, options @ ..]) => self.set((key, value), options)?,
            (b"DEL" | b"UNLINK" | b"EXISTS", [_, ..]) => {
                let mut count = 0;
                for key in words {
                    let is_there = store.expiry(key, now)?.is_some();
                    count += i64::from(is_there && (name == b"EXISTS" || store.remove(key, now)?));
                }
                self.to.integer(count);
            }
            (b"EXPIRE", [key, time]) => self.expire(key, self.after(time, 1000)?)?,
            (b"PEXPIRE", [key, time]) => self.expire(key, self.after(time, 1)?)?,
            (b"TTL", [key]) => self.left(key, 1000)?,
            (b"PTTL", [key]) => self.left(key, 1)?,
            (b"DBSIZE", []) => self.to.integer(store.count().cast_signed()),
            (b"FLUSHALL" | b"FLUSHDB", _) => {
                store.clear()?;
                self.to.ok();
            }
            (b"SCAN", [cursor, options @ ..]) => self.scan(number(cursor)?, options)?,
            (b"INFO", _) => self.to.bulk(self.info().as_bytes()),
            (b"PING", []) => self.to.bytes.extend_from_slice(b"+PONG\r\n"),
            (b"PING" | b"ECHO", [text]) => self.to.bulk(text),
            (b"HELLO", [] | [b"2" | b"3", ..]) => {
                self.to.resp3 = words.first().map_or(self.to.resp3, |version| *version == b"3");
                self.to.map(3);
                for text in ["server", "redis", "version", LIKE, "proto"] {
                    self.to.bulk(text.as_bytes());
                }
                self.to.integer(if self.to.resp3 { 3 } else { 2 });
            }
            (b"HELLO", _) => return Err("NOPROTO unsupported protocol version".into()),
            (b"CONFIG", [b"GET" | b"get", name]) => {
                // Of what clients ask for nothing is configured: `redis-benchmark` goes on then.
                self.to.map(1);
                self.to.bulk(name);
                self.to.bulk(b"");
            }
            (b"COMMAND", _) => self.to.array(0),
            // Names of clients and of their libraries are not kept.
            (b"SELECT", [b"0"]) | (b"CLIENT", [_, ..]) | (b"QUIT", _) => self.to.ok(),
            (b"SELECT", [_]) => return Err("ERR DB index is out of range".into()),
            _ => {
                let name = name.escape_ascii();
                return Err(format!("ERR unknown command '{name}', or not so many words").into());
            }
        }
        Ok(())
    }

    fn get(&mut self, key: &[u8]) -> Answered {
        Ok(self.cache.store.get(key, self.now, |value| match value {
            Some(value) => self.to.bulk(value),
            None => self.to.null(),
        })?)
    }

    fn set(&mut self, item: (&[u8], &[u8]), mut options: &[&[u8]]) -> Answered {
        let (mut when, mut expires) = (None, NEVER);
        while let [option, rest @ ..] = options {
            options = rest;
            match (option.to_ascii_uppercase().as_slice(), rest) {
                (b"NX", _) if when.is_none() => when = Some(false),
                (b"XX", _) if when.is_none() => when = Some(true),
                (unit @ (b"EX" | b"PX"), [time, rest @ ..]) if expires == NEVER => {
                    options = rest;
                    expires = self.after(time, if unit == b"EX" { 1000 } else { 1 })?;
                }
                _ => return Err(SYNTAX.into()),
            }
        }
        if expires <= self.now {
            return Err(TIME.into());
        }
        let is_set = self.cache.store.set(item, when, expires, self.now)?;
        let answer = if is_set { Replies::ok } else { Replies::null };
        answer(self.to);
        Ok(())
    }

    /// Has an item expire. What is over already is taken out.
    fn expire(&mut self, key: &[u8], at: u64) -> Answered {
        let (store, now) = (&self.cache.store, self.now);
        let found = if at > now { store.expire(key, at, now)? } else { store.remove(key, now)? };
        self.to.integer(i64::from(found));
        Ok(())
    }

    /// Returns the time so many units from now on.
    fn after(&self, word: &[u8], unit: i64) -> Result<u64, &'static str> {
        let after = number::<i64>(word)?.checked_mul(unit);
        after.and_then(|after| self.now.checked_add_signed(after)).ok_or(TIME)
    }

    /// Answers how long an item is there: -1 stands for ever, -2 for none.
    fn left(&mut self, key: &[u8], unit: u64) -> Answered {
        self.to.integer(match self.cache.store.expiry(key, self.now)? {
            None => -2,
            Some(NEVER) => -1,
            Some(at) => (at - self.now).div_ceil(unit).cast_signed(),
        });
        Ok(())
    }

    fn scan(&mut self, cursor: u64, mut options: &[&[u8]]) -> Answered {
        let (mut pattern, mut count) = (&b"*"[..], 10);
        while let [option, value, rest @ ..] = options {
            options = rest;
            match option.to_ascii_uppercase().as_slice() {
                b"MATCH" => pattern = value,
                b"COUNT" => count = number::<u64>(value)?.clamp(1, MOST),
                _ => return Err(SYNTAX.into()),
            }
        }
        if !options.is_empty() {
            return Err(SYNTAX.into());
        }
        let mut keys = Vec::new();
        let cursor = self.cache.store.scan(cursor, count, self.now, |key| {
            if glob::matches(pattern, key) {
                keys.push(key.to_vec());
            }
        })?;
        self.to.array(2);
        self.to.bulk(cursor.to_string().as_bytes());
        self.to.array(keys.len());
        for key in &keys {
            self.to.bulk(key);
        }
        Ok(())
    }

    fn info(&self) -> String {
        let Cache { store, heirloom, build, began, clients, .. } = self.cache;
        let (memory, frame) = (heirloom.memory().stats(), heirloom::PAGE_SIZE as u64);
        let Shared { expired, evicted, .. } = &*store.shared;
        let [expired, evicted] = [expired, evicted].map(|count| count.load(Relaxed));
        format!(
            "# Server\r\nredis_version:{LIKE}\r\nbuild:{build}\r\nprocess_id:{}\r\n\
             generation:{}\r\nbegan:{began}\r\n\r\n\
             # Clients\r\nconnected_clients:{}\r\n\r\n\
             # Memory\r\nused_memory:{}\r\nmaxmemory:{}\r\n\r\n\
             # Stats\r\nexpired_keys:{expired}\r\nevicted_keys:{evicted}\r\n\r\n\
             # Keyspace\r\ndb0:keys={},expires=0,avg_ttl=0\r\n",
            std::process::id(),
            heirloom.generation(),
            clients.load(Relaxed),
            memory.used() * frame,
            memory.frames * frame,
            store.count(),
        )
    }
}

/// Returns the number that these bytes are.
fn number<T: FromStr>(word: &[u8]) -> Result<T, &'static str> {
    let number = std::str::from_utf8(word).ok().and_then(|text| text.parse().ok());
    number.ok_or("ERR value is not an integer or out of range")
}
