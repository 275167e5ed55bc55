//! `include/dirty_ring.h` is written by hand, because its comments are the manual. Its declarations are
//! those of the Rust side: what cbindgen makes of the sources, comments, order and layout aside.

use std::collections::BTreeSet;
use std::fs;

use cbindgen::{Builder, Config, Language, RenameRule, Style};

mod support;

/// Types and constants by their names in Rust, and in C.
const NAMES: [(&str, &str); 26] = [
    ("ABI", "DIRTY_RING_ABI"),
    ("CHUNK", "DIRTY_RING_CHUNK"),
    ("Callbacks", "dirty_ring_callbacks"),
    ("Code", "dirty_ring_error"),
    ("Controller", "dirty_ring_controller"),
    ("DeadlineOptions", "dirty_ring_deadline_options"),
    ("Decision", "dirty_ring_decision"),
    ("DrainPosition", "dirty_ring_drain"),
    ("KvmDirtyGfn", "kvm_dirty_gfn"),
    ("Measurement", "dirty_ring_measurement"),
    ("NEVER", "DIRTY_RING_NEVER"),
    ("NO_LEVEL", "DIRTY_RING_NO_LEVEL"),
    ("PML_ENTRIES", "DIRTY_RING_PML_ENTRIES"),
    ("Page", "dirty_ring_page"),
    ("Pass", "dirty_ring_pass"),
    ("PlannerState", "dirty_ring_planner_state"),
    ("Reaper", "dirty_ring_reaper"),
    ("Reason", "dirty_ring_reason"),
    ("RingFigures", "dirty_ring_figures"),
    ("RingFull", "dirty_ring_ring_full"),
    ("RingState", "dirty_ring_ring_state"),
    ("Size", "dirty_ring_size"),
    ("Totals", "dirty_ring_totals"),
    ("Turn", "dirty_ring_turn"),
    ("WHOLE", "DIRTY_RING_WHOLE"),
    ("Wake", "dirty_ring_wake"),
];

/// Types that no function names, because C has them as an `int`.
const NUMBERS: [&str; 4] = ["Code", "Reason", "Turn", "Wake"];

/// Handles. Behind them is a lock, so Rust has shared references to them, and C, to which a call changes
/// what a handle stands for, has pointers without `const`.
const HANDLES: [&str; 2] = ["dirty_ring_reaper", "dirty_ring_controller"];

/// Returns the header that the sources make.
fn generated() -> String {
    let mut config = Config {
        language: Language::C,
        style: Style::Tag,
        no_includes: true,
        documentation: false,
        usize_is_size_t: true,
        ..Config::default()
    };
    config.enumeration.rename_variants = RenameRule::QualifiedScreamingSnakeCase;
    config.export.include = NUMBERS.map(String::from).to_vec();
    let names = NAMES.iter();
    config.export.rename = names
        .map(|(rust, c)| ((*rust).to_owned(), (*c).to_owned()))
        .collect();
    let sources = Builder::new().with_config(config);
    let sources = sources.with_src(support::here("src/lib.rs"));
    let mut text = Vec::new();
    sources.generate().unwrap().write(&mut text);
    let mut text = String::from_utf8(text).unwrap();
    for handle in HANDLES {
        text = text.replace(
            &format!("const struct {handle} *"),
            &format!("struct {handle} *"),
        );
    }
    text
}

/// Returns the lines of a header that declare something, without comments.
fn declaring(header: &str) -> String {
    let mut lines = Vec::new();
    let mut is_for_cpp = false;
    for line in header.lines() {
        let line = line.split("//").next().unwrap_or_default().trim();
        match line {
            "#ifdef __cplusplus" => is_for_cpp = true,
            "#endif" => is_for_cpp = false,
            _ if is_for_cpp || line.starts_with("#if") || line.starts_with("#include") => {}
            "#define DIRTY_RING_H" => {}
            // So that it ends like any other declaration.
            define if define.starts_with("#define") => lines.push(format!("{define};")),
            line => lines.push(line.to_owned()),
        }
    }
    lines.join("\n")
}

/// Returns the declarations of a header, each as its tokens.
fn declarations(header: &str) -> BTreeSet<String> {
    let mut declarations = BTreeSet::new();
    let (mut tokens, mut depth) = (String::new(), 0);
    for c in declaring(header).chars() {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ';' if depth == 0 => {
                declarations.insert(std::mem::take(&mut tokens).trim().to_owned());
                continue;
            }
            _ => {}
        }
        let space = tokens.ends_with(' ');
        match c {
            c if c.is_whitespace() && !space => tokens.push(' '),
            c if c.is_whitespace() => {}
            c if is_word(c) => tokens.push(c),
            c if space => tokens.extend([c, ' ']),
            c => tokens.extend([' ', c, ' ']),
        }
    }
    assert_eq!((tokens.trim(), depth), ("", 0));
    declarations
}

#[test]
fn the_header_declares_what_the_library_has() {
    let header = fs::read_to_string(support::here("include/dirty_ring.h")).unwrap();
    let (declared, exported) = (declarations(&header), declarations(&generated()));
    let missing: Vec<_> = exported.difference(&declared).collect();
    let wrong: Vec<_> = declared.difference(&exported).collect();
    assert!(
        missing.is_empty() && wrong.is_empty(),
        "not in the header, but in the sources: {missing:#?}\nnot in the sources, but in the header: \
         {wrong:#?}"
    );
    assert!(declared.len() > 50, "{declared:?}");
}

#[test]
fn a_header_that_has_drifted_is_found_out() {
    let header = fs::read_to_string(support::here("include/dirty_ring.h")).unwrap();
    let exported = declarations(&generated());
    for (from, to) in [
        ("DIRTY_RING_ERROR_BUSY = -3,", "DIRTY_RING_ERROR_BUSY = -4,"),
        ("uint32_t fullest;", "uint64_t fullest;"),
        (
            "uint64_t now_us, uint64_t *deadline_us",
            "uint64_t now_us, uint32_t *deadline_us",
        ),
        (
            "uint32_t measured;\n    uint32_t grown;",
            "uint32_t grown;\n    uint32_t measured;",
        ),
        ("#define DIRTY_RING_ABI 1", "#define DIRTY_RING_ABI 2"),
        (
            "int dirty_ring_reaper_check(struct dirty_ring_reaper *reaper);",
            "",
        ),
    ] {
        assert!(header.contains(from), "{from}");
        assert_ne!(
            declarations(&header.replacen(from, to, 1)),
            exported,
            "{from}"
        );
    }
}

#[test]
fn the_header_compiles_by_itself_as_c_and_as_cpp() {
    let header = support::scratch("header.h");
    fs::write(
        &header,
        "#include <dirty_ring.h>\n#include <dirty_ring.h>\n",
    )
    .unwrap();
    for language in ["c11", "c17", "c++11", "c++17"] {
        support::compiles(&header, language);
    }
}

#[test]
fn the_example_in_the_header_compiles() {
    let header = fs::read_to_string(support::here("include/dirty_ring.h")).unwrap();
    let (_, example) = header.split_once("// EXAMPLE\n").unwrap();
    let (example, _) = example.split_once("// THREADS\n").unwrap();
    let code = example.lines().filter_map(|line| match line {
        "//" => Some(""),
        line => line.strip_prefix("//     "),
    });
    let source = support::scratch("example.c");
    fs::write(&source, code.collect::<Vec<_>>().join("\n")).unwrap();
    support::compiles(&source, "c11");
}
