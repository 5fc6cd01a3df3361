//! A handover that passed through kernels of two kinds: Linux, one on heirloom that passed on what was Linux's, and the Linux that
//! takes it over.

mod common;

use common::{FLBS, Ran, Temporary, heirloom};

const IMAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/mixed/image.elf.xz");

/// Runs the command on it.
fn on_image(command: &str, arguments: &[&str]) -> Ran {
    heirloom(&[&[command, IMAGE, "--zero-excluded"], arguments].concat())
}

#[test]
fn what_a_kernel_on_heirloom_hands_to_linux_is_in_order() {
    let accepted = ["--color", "never", "--accept", FLBS];
    let ran = on_image("check", &accepted);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    let said = "in order as far as looked at: root 0xc83000, 295 folios, 32 nodes, 4 subtrees, 80 tables as sealed; ";
    assert!(ran.out.contains(said), "{ran:?}");
    // Linux takes all that was its own before, and leaves the rest to a module.
    let next = [&accepted[..], &["--for", "7.3"]].concat();
    let ran = on_image("check", &next);
    assert_eq!(ran.code, 3, "{ran:?}");
    for said in [
        "\n+ root page: kho-v4\n",
        "\n? subtree heirloom: heirloom-v2; nothing in Linux 7.3 is for it; a module may be\n",
        "\n+ subtree LUO: luo-v5\n",
        "\n+ 8 files: memfd-v2\n",
        "\nLinux 7.3 may take it: 1 of 15 structures not known",
    ] {
        assert!(ran.out.contains(said), "{said}: {ran:?}");
    }
    assert_eq!(on_image("check", &[&next[..], &["--accept", "heirloom"]].concat()).code, 0);
    let own = on_image("check", &[&next[..], &["--for", "heirloom"]].concat());
    assert!(own.out.contains("Linux 7.3 with heirloom 0.1 takes it: 15 structures"), "{own:?}");
}

#[test]
fn what_both_kinds_left_is_shown() {
    let ran = on_image("inspect", &["--json", "--quick"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    let subtrees = &ran.json()["subtrees"];
    let own = &subtrees["heirloom"];
    assert_eq!((&own["producer"], &own["generation"]), (&"one".into(), &1.into()));
    assert_eq!((own["caches"].as_array().unwrap().len(), &own["seal"]["sound"]), (24, &80.into()));
    let sessions = subtrees["LUO"]["sessions"].as_array().unwrap();
    let names: Vec<_> = sessions.iter().map(|of| of["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["linux", "kernel"]);
    let tokens = sessions.iter().flat_map(|of| of["files"].as_array().unwrap());
    let tokens: Vec<_> = tokens.map(|of| of["token"].as_u64().unwrap()).collect();
    assert!(tokens.iter().copied().eq(412..420), "{tokens:?}");
    let handles = &subtrees["kernel"]["handles"];
    assert_eq!((&handles[0]["handle"], &handles[0]["bytes"]), (&"run".into(), &(12 << 10).into()));
    assert_eq!((&handles[1]["offset"], &handles[1]["addr"]), (&16.into(), &"0x3000000".into()));
}

#[test]
fn what_is_in_it_is_extracted_by_session_and_by_name() {
    let to = Temporary::path();
    let ran = on_image("extract", &["kernel", "419", "-o", to.as_str()]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    let files = on_image("inspect", &["--json", "--quick"]).json();
    let size = files["subtrees"]["LUO"]["sessions"][1]["files"][3]["size"].as_u64();
    assert_eq!(Some(to.read().len() as u64), size);
    let ran = on_image("extract", &["--object", "kernel[0]", "-o", to.as_str()]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");
    assert_eq!(to.read().len(), 12 << 10);
    let ran = heirloom(&["diff", IMAGE, IMAGE, "--zero-excluded"]);
    assert_eq!(ran.code, 0, "{ran:?}");
}
