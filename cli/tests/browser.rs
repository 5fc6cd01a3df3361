//! The page of `--map`, in a real browser: from a terabyte to a frame, and what each frame belongs to.
//!
//! A browser is started for each page, with a script behind the page's own that does what a person would, by events,
//! and writes down what is seen. Without a browser nothing is tried, and that is said.

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Core, FIXTURE, LENT, Temporary, heirloom};
use serde_json::Value;

const LUO: u64 = 0x70_a000;

/// The browser, if there is one.
fn browser() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let all = std::env::split_paths(&path).flat_map(|dir| names.map(|name| dir.join(name)));
    let found = { all }.find(|path| path.is_file());
    if found.is_none() {
        // Past what the test harness keeps to itself.
        let said =
            "\n**** SKIPPED: no chromium: the page of --map was not tried in a browser ****\n";
        std::io::stderr().write_all(said.as_bytes()).unwrap();
    }
    found
}

/// The page that is drawn of an image.
fn page(arguments: &[&str]) -> String {
    let place = Temporary::path();
    let name = format!("{}.html", place.as_str());
    let ran = heirloom(&[&["inspect", "--quick", "--map", &name], arguments].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    let page = fs::read_to_string(&name).unwrap();
    fs::remove_file(name).unwrap();
    page
}

/// What a person could do, and look at.
const HANDS: &str = r"
const hands = {
  canvas: document.getElementById('map'),
  seen: () => ({ first: document.body.dataset.first, cell: Number(document.body.dataset.cell),
    about: document.getElementById('about').textContent, hash: location.hash }),
  // Pixels that are red, and no orange.
  reds() {
    const all = this.canvas.getContext('2d').getImageData(0, 0, this.canvas.width, this.canvas.height).data;
    let count = 0;
    for (let i = 0; i < all.length; i += 4) if (all[i] > 150 && all[i + 1] < all[i] / 2 && all[i + 2] < all[i] / 2) count++;
    return count;
  },
  place(frame) {
    const { first, cell } = this.seen(), i = Math.floor((frame - Number(BigInt(first) / 4096n)) / cell);
    const box = this.canvas.getBoundingClientRect(), scale = box.width / this.canvas.width;
    return { clientX: box.left + (150 + i % 64 * 16 + 8) * scale, clientY: box.top + (4 + Math.floor(i / 64) * 22 + 9) * scale };
  },
  click(frame) { this.canvas.dispatchEvent(new MouseEvent('click', { bubbles: true, ...this.place(frame) })); },
  wheel(frame, deltaY) { this.canvas.dispatchEvent(new WheelEvent('wheel', { bubbles: true, cancelable: true, deltaY, ...this.place(frame) })); },
  key(key) { document.body.dispatchEvent(new KeyboardEvent('keydown', { bubbles: true, key })); },
  go(address) {
    document.getElementById('address').value = address;
    document.getElementById('go').dispatchEvent(new Event('submit', { bubbles: true, cancelable: true }));
  },
};
";

/// What `script` returns in the page, if there is a browser.
fn driven(page: &str, script: &str) -> Option<Value> {
    let browser = browser()?;
    let driver = format!(
        "<script>{HANDS}\nconst told = (() => {{ {script} }})();\nconst place = document.createElement('pre');\n\
         place.id = 'told'; place.textContent = 'TOLD' + btoa(unescape(encodeURIComponent(JSON.stringify(told)))) + 'END';\n\
         document.body.append(place);</script></body>"
    );
    let whole = page.replacen("</body>", &driver, 1);
    let (file, profile) = (Temporary::path(), Temporary::path());
    let name = format!("{}.html", file.as_str());
    fs::write(&name, whole).unwrap();
    fs::create_dir_all(profile.as_str()).unwrap();
    let quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"];
    let offline =
        ["--disable-background-networking", "--disable-component-update", "--disable-sync"];
    let ran = Command::new(browser)
        .args(quiet)
        .args(offline)
        .args([format!("--user-data-dir={}", profile.as_str()), "--dump-dom".to_owned()])
        .arg(format!("file://{}", Path::new(&name).canonicalize().unwrap().display()))
        .output()
        .unwrap();
    fs::remove_file(name).unwrap();
    fs::remove_dir_all(profile.as_str()).unwrap();
    let dom = String::from_utf8_lossy(&ran.stdout).into_owned();
    let told = dom.split(">TOLD").nth(1).and_then(|rest| rest.split("END").next());
    let told = told.unwrap_or_else(|| {
        panic!("the script did not end: {}", String::from_utf8_lossy(&ran.stderr))
    });
    let json = data_encoding(told);
    Some(serde_json::from_slice(&json).unwrap())
}

/// The bytes that base 64 says.
fn data_encoding(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text.bytes().filter_map(|byte| DIGITS.iter().position(|digit| *digit == byte));
    let (mut bytes, mut bits, mut word) = (Vec::new(), 0, 0_u32);
    for digit in digits {
        word = word << 6 | digit as u32;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((word >> bits) as u8);
        }
    }
    bytes
}

#[test]
fn a_terabyte_is_gone_into_down_to_a_frame() {
    let file = Temporary::path();
    let raw = File::create(file.as_str()).unwrap();
    let core = Core::fixture();
    raw.set_len(1 << 40).unwrap();
    for (offset, addr, bytes) in core.segments() {
        raw.write_all_at(&core.0[offset..offset + bytes], addr).unwrap();
    }
    let page = page(&[file.as_str(), "--base", "0"]);
    let told = driven(
        &page,
        "const frame = 0x7b6, all = [hands.seen()];
         for (let i = 0; i < 40 && hands.seen().cell > 1; i++) { hands.click(frame); all.push(hands.seen()); }
         hands.click(frame);
         return { all, last: hands.seen(), reds: hands.reds() };",
    );
    let Some(told) = told else { return };
    let all = told["all"].as_array().unwrap();
    // 2^28 frames in 24 rows of 64 cells, at most.
    let cell = all[0]["cell"].as_u64().unwrap();
    assert!(cell.is_power_of_two() && cell * 1536 >= 1 << 28 && cell * 768 < 1 << 28, "{cell}");
    let cells: Vec<_> = all.iter().map(|seen| seen["cell"].as_u64().unwrap()).collect();
    assert!(cells.windows(2).all(|pair| pair[1] < pair[0]), "{cells:?}");
    assert_eq!(cells.last(), Some(&1));
    let about = told["last"]["about"].as_str().unwrap();
    assert_eq!(
        about,
        "0x7b6000\norder 0: 0x7b6000, 4 KiB\nbelongs to session session-0, token 0: memfd-v2"
    );
    assert_eq!(told["reds"], 0);
}

#[test]
fn a_person_can_look_around() {
    let told = driven(
        &page(&[FIXTURE]),
        "const all = {}; all.start = hands.seen();
         hands.wheel(0x7b6, -1); all.wheeled = hands.seen();
         hands.wheel(0x7b6, 1); all.back = hands.seen();
         hands.key('+'); all.plus = hands.seen(); hands.key('ArrowDown'); all.down = hands.seen();
         hands.key('Home'); all.home = hands.seen();
         const of = address => { hands.go(address); return hands.seen().about; };
         all.list = of('0x7b5000'); all.root = of('0x50f000'); all.node = of('0x50e000');
         all.sessions = of('0x70b000'); all.test = of('0x584123'); all.none = of('0x10000000');
         all.pins = document.querySelectorAll('#pins button').length;
         document.querySelector('#pins button:nth-child(2)').click(); all.pin = hands.seen();
         all.legend = [...document.querySelectorAll('#legend span')].map(of => of.textContent);
         all.title = document.getElementById('title').textContent;
         return all;",
    );
    let Some(told) = told else { return };
    let cell = |name: &str| told[name]["cell"].as_u64().unwrap();
    assert_eq!(
        (cell("wheeled") * 2, cell("back"), cell("home")),
        (cell("start"), cell("start"), cell("start"))
    );
    assert_eq!(told["home"]["first"], told["start"]["first"]);
    assert_ne!(told["down"]["first"], told["plus"]["first"]);
    let said = |name: &str| told[name].as_str().unwrap();
    assert!(
        said("list")
            .contains("belongs to session session-0, token 0: memfd-v2, its list of folios")
    );
    assert!(said("root").contains("belongs to the root page"), "{told}");
    assert!(said("node").contains("the tree's own: 0x50e000, 4 KiB"), "{told}");
    assert!(
        said("test")
            .starts_with("0x584000\norder 2: 0x584000, 16 KiB\nbelongs to subtree kho_test"),
        "{told}"
    );
    assert_eq!(said("none"), "0x10000000\nnot in the image");
    assert_eq!(told["pins"], 5);
    // By the addresses that they lie at.
    assert_eq!(told["pin"]["cell"], 1);
    assert!(told["pin"]["hash"].as_str().unwrap().starts_with("#0x50"), "{told}");
    let legend = told["legend"].as_array().unwrap();
    assert!(legend.contains(&"order 5".into()) && !legend.contains(&"at fault".into()), "{told}");
    assert!(said("title").starts_with("kho-v4 handover in "), "{told}");
}

/// The order 1 over the order 2 at 0x586000.
fn with_overlap() -> Core {
    let mut core = Core::fixture();
    let key = (1_u64 << 51) | (0x58_a000 >> 13);
    let mut node = 0x50_e000;
    for level in (1..6).rev() {
        node = core.word(node + (key >> ((level - 1) * 9 + 15) & 511) * 8);
    }
    let (leaf, other) = (core.offset(node), 0x58_6000_u64 >> 13);
    core.0[leaf + (other / 8) as usize] |= 1 << (other % 8);
    core
}

#[test]
fn what_is_red_is_at_fault_and_the_other_way_round() {
    let script = "const start = hands.reds(); hands.go('0x586000');
                  return { start, near: hands.reds(), about: hands.seen().about,
                    findings: document.getElementById('findings').textContent };";
    let Some(sound) = driven(&page(&[FIXTURE]), script) else { return };
    assert_eq!((&sound["start"], &sound["near"]), (&0.into(), &0.into()));
    assert_eq!(sound["findings"], "");
    let file = with_overlap().file();
    let broken = driven(&page(&[file.as_str()]), script).unwrap();
    assert!(broken["start"].as_u64() > Some(0) && broken["near"].as_u64() > Some(100), "{broken}");
    assert!(broken["about"].as_str().unwrap().contains("at fault: 0x586000, 8 KiB"), "{broken}");
    assert_eq!(broken["findings"], "not in order: 1 finding, see heirloom check");
}

#[test]
fn what_a_cache_of_a_handover_within_has_is_named() {
    let page = page(&["--zero-excluded", LENT]);
    let slabs = page.matches("cache sessions").count();
    assert_eq!(slabs, 1, "one owner for all slabs of it");
    let told = driven(
        &page,
        "const data = JSON.parse(document.getElementById('data').textContent);
         const of = data.owners.findIndex(name => name === 'heirloom: cache sessions');
         const slab = data.owned.find(run => run[2] === of);
         hands.go('0x' + (slab[0] * 4096).toString(16));
         return hands.seen().about;",
    );
    let Some(told) = told else { return };
    let about = told.as_str().unwrap();
    assert!(about.contains("belongs to lent to heirloom"), "{about}");
    assert!(about.contains("belongs to heirloom: cache sessions"), "{about}");
}

#[test]
fn a_name_in_an_image_is_no_code_in_the_page() {
    let mut core = Core::fixture();
    let sessions = core.word(LUO + 16);
    let name = b"</script><b id=x>\xe2\x80\xae";
    let mut field = name.to_vec();
    field.resize(64, 0);
    core.put(sessions + 16, &field);
    let page = page(&[core.file().as_str()]);
    assert!(!page.contains("</script><b"), "ends the element");
    for outside in ["http:", "https:", "src=", "url(", "@import", "fetch("] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.contains("default-src 'none'"));
    let told = driven(
        &page,
        "hands.go('0x7b6000'); return { about: hands.seen().about, found: document.getElementById('x') === null };",
    );
    let Some(told) = told else { return };
    assert_eq!(told["found"], true);
    let about = told["about"].as_str().unwrap();
    assert!(about.contains("session </script><b id=x>\\u{202e}, token 0: memfd-v2"), "{about}");
}
