//! Help, exit codes and `whk send`.

use crate::support::{Server, fixture, run, stderr, whk};

#[test]
fn each_command_has_help() {
    for arguments in [vec!["--help"], vec!["keygen", "--help"], vec!["publish-server", "--help"]] {
        let help = run(&arguments);
        assert!(help.status.success());
        assert!(String::from_utf8_lossy(&help.stdout).contains("Usage: whk"));
    }
}

#[test]
fn an_unusable_file_or_flag_is_named_and_has_its_exit_code() {
    let taken = Server::customer(&[]);
    let port = taken.port.to_string();
    let key = |name: &str| fixture(&format!("keys/{name}")).to_str().unwrap().to_owned();
    let public =
        |name: &str| vec!["publish-server".into(), "--port=0".into(), "--public-key".into(), key(name)];
    let private = |name: &str, more: &[&str]| {
        let mut arguments = vec!["customer".into(), "--port=0".into(), "--allow-unsigned".into()];
        arguments.extend(["--private-key".into(), key(name)]);
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        arguments
    };
    let mut on_port = public("public_key.pem");
    on_port.extend(["--port".into(), port.clone()]);
    on_port.remove(1);
    let with = |mut arguments: Vec<String>, more: &[&str]| {
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        arguments
    };
    let secret = key("public_key.pem");
    for (arguments, code, expected) in [
        (vec!["--no-such-flag".into()], 64, "--no-such-flag"),
        (vec!["keygen".into(), "--bits=1024".into()], 64, "4096"),
        (public("none.pem"), 66, "none.pem"),
        (public("private_key.pem"), 64, "private key where a public key belongs"),
        (public("short_public_key.pem"), 64, "1024 bits"),
        (public("empty.pem"), 64, "empty"),
        (public("truncated_public_key.pem"), 64, "truncated"),
        (public("ec_public_key.pem"), 64, "isn't RSA"),
        (private("public_key.pem", &[]), 64, "public key where a private key belongs"),
        (private("private_key.encrypted.pem", &[]), 64, "--passphrase-file"),
        (
            private("private_key.encrypted.pem", &["--passphrase-file", &key("signing_secret.txt")]),
            64,
            "wrong passphrase",
        ),
        (vec!["customer".into(), "--port=0".into()], 64, "--secret-file"),
        (on_port, 69, "--port"),
        (with(public("public_key.pem"), &["--key-reuse", "0"]), 64, "--key-reuse"),
        (with(public("public_key.pem"), &["--retry-delays", "0"]), 64, "retry"),
        (with(public("public_key.pem"), &["--retry-jitter", "2"]), 64, "jitter"),
        (with(public("public_key.pem"), &["--allow-net", "loopback"]), 64, "--allow-net"),
        (with(public("public_key.pem"), &["--delivery-timeout", "soon"]), 64, "30s"),
        (with(public("public_key.pem"), &["--ca-file", &key("public_key.pem")]), 64, "--ca-file"),
        (with(public("public_key.pem"), &["--signing-secret-file", &secret]), 64, "whsec_"),
        (with(public("public_key.pem"), &["--log", "a=b=c"]), 64, "--log"),
        (with(public("public_key.pem"), &["--in-flight", "18446744073709551615"]), 64, "--in-flight"),
        (vec!["send".into(), "--payload".into(), "{".into()], 64, "payload"),
        (vec!["send".into(), "--server".into(), "ftp://host".into()], 64, "http"),
        (vec!["send".into(), "--payload-file".into(), key("none.json")], 66, "none.json"),
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = run(&arguments);
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
        assert!(message.contains(expected), "{arguments:?}: {message}");
    }
}

#[test]
fn send_counts_accepted_and_refused_events() {
    let customer = Server::customer(&[]);
    let server = Server::publish_locally(&[]);
    let send = |more: &[&str]| {
        let mut command = whk(&["send", "--output", "json", "--server", &server.url("")]);
        command.args(["--webhook-url", &customer.url("/webhook")]).args(more).output().unwrap()
    };
    let sent = send(&["--profile", "kafka"]);
    assert!(sent.status.success(), "{}", stderr(&sent));
    let summary: serde_json::Value = serde_json::from_slice(&sent.stdout).unwrap();
    assert_eq!((summary["accepted"].as_u64(), summary["refused"].as_u64()), (Some(150), Some(0)));
    assert!(summary["latency_ms"]["p99"].as_f64().unwrap() > 0.0);
    assert_eq!(customer.events(150).len(), 150);

    let numbered = send(&["--count", "3", "--rate", "100", "--payload", r#"{"n":{{seq}}}"#]);
    assert!(numbered.status.success());
    let mut numbers: Vec<_> =
        customer.events(3).iter().map(|event| event["data"]["n"].as_u64().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 3]);

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), r#"{"from":"a file","n":{{seq}}}"#).unwrap();
    assert!(send(&["--count", "1", "--payload-file", file.path().to_str().unwrap()]).status.success());
    assert_eq!(customer.events(1)[0]["data"], serde_json::json!({"from": "a file", "n": 1}));

    let refused = send(&["--count", "5", "--webhook-url", "http://10.0.0.1/"]);
    assert_eq!(refused.status.code(), Some(1));
    let summary: serde_json::Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!((summary["accepted"].as_u64(), summary["refused"].as_u64()), (Some(3), Some(2)));
    assert!(stderr(&refused).contains("--allow-net"), "{}", stderr(&refused));
}

#[test]
fn send_without_a_server_says_how_to_start_one() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = run(&["send", "--count", "2", "--server", &format!("http://{closed}")]);
    assert_eq!(output.status.code(), Some(1));
    let expected = format!(
        "no server answers at http://{closed} (connection refused); start one with `whk publish-server`, or pass --server"
    );
    assert!(stderr(&output).contains(&expected), "{}", stderr(&output));
}
