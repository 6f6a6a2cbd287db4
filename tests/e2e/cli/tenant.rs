//! `whk tenant`, with the provider's key and with a tenant's key.

use std::process::{Command, Output};

use serde_json::Value;

use crate::support::{OK, RawCustomer, Server, fixture, stderr, whk};

fn tenant(server: &Server, arguments: &[&str]) -> Command {
    let mut command = whk(&["tenant", "--server", &server.url("")]);
    command.arg("--data-dir").arg(server.data_dir()).args(arguments);
    command
}

/// Runs the command, which must succeed, and returns its text output.
fn text(server: &Server, arguments: &[&str]) -> String {
    let output = tenant(server, arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs the command, which must succeed, and returns its JSON output.
fn json(server: &Server, arguments: &[&str]) -> Value {
    let text = text(server, &[&["--output", "json"], arguments].concat());
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"))
}

fn refused(server: &Server, arguments: &[&str]) -> (i32, String) {
    let output = tenant(server, arguments).output().unwrap();
    (output.status.code().unwrap(), stderr(&output))
}

fn key(name: &str) -> String {
    fixture(&format!("keys/{name}")).to_str().unwrap().to_owned()
}

#[test]
fn onboard_creates_tenant_key_and_endpoint_in_one_step() {
    let customer = RawCustomer::answering(OK);
    let server = Server::tenants(&[]);
    let public_key = key("public_key.pem");
    let arguments = [
        "onboard",
        "Acme",
        "--public-key",
        &public_key,
        "--url",
        &customer.url(),
        "--events",
        "invoice.*,user.created",
    ];
    let made = json(&server, &arguments);
    assert_eq!(made["events"], serde_json::json!(["invoice.*", "user.created"]));
    assert!(made["signing_secret"].as_str().unwrap().starts_with("whsec_"));
    let of_customer = server.api().with_key(made["api_key"].as_str().unwrap());
    assert_eq!(of_customer.published("invoice.paid", serde_json::json!(1)).len(), 1);
    customer.request();
    let (code, message) = refused(&server, &arguments);
    assert_eq!(code, 1);
    assert!(message.contains("another tenant has this name"), "{message}");
    // Where one step fails, the steps before it are undone.
    let (code, message) = refused(
        &server,
        &["onboard", "Bad", "--public-key", &public_key, "--url", "http://10.0.0.1/", "--events", "*"],
    );
    assert_eq!(code, 1);
    assert!(message.contains("add the endpoint") && message.contains("10.0.0.1"), "{message}");
    assert_eq!(json(&server, &["list"]).as_array().unwrap().len(), 1);
    let shown = text(
        &server,
        &["onboard", "Third", "--public-key", &public_key, "--url", &customer.url(), "--events", "*"],
    );
    for part in ["Third (ten_", "(ep_", "Hand these to the customer", "whk_tenant_", "whsec_"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
}

#[test]
fn each_subcommand_of_tenant_prints_text_and_json() {
    let customer = RawCustomer::answering(OK);
    let server = Server::tenants(&[]);
    let made = json(&server, &["create", "Acme", "--queued-jobs", "50"]);
    assert_eq!(made["limits"]["queued_jobs"], 50);
    assert!(text(&server, &["list"]).contains("50 queued jobs"));
    assert!(text(&server, &["show", "Acme"]).contains(made["id"].as_str().unwrap()));
    assert!(text(&server, &["update", "Acme", "--name", "Acme & Söhne"]).contains("Acme & Söhne"));
    let acme = "Acme & Söhne";
    let limited = json(&server, &["update", acme, "--endpoints", "7"]);
    assert_eq!((&limited["limits"]["endpoints"], &limited["limits"]["queued_jobs"]), (&7.into(), &50.into()));
    assert!(text(&server, &["show", acme]).contains("0 of 50"));
    assert_eq!(json(&server, &["update", acme, "--default-limits"])["limits"]["queued_jobs"], Value::Null);
    let provider_key = json(&server, &["provider-key", "create", "--description", "for CI"]);
    assert!(text(&server, &["provider-key", "list"]).contains("for CI"));
    text(&server, &["provider-key", "revoke", provider_key["id"].as_str().unwrap()]);

    let first = json(&server, &["key", "add", acme, "--public-key", &key("public_key.jwk.json")]);
    json(&server, &["key", "add", acme, "--public-key", &key("other_public_key.pem")]);
    let listed = text(&server, &["key", "list", acme]);
    assert!(listed.contains("active") && listed.contains("retiring"), "{listed}");
    let kid = first["kid"].as_str().unwrap();
    assert!(text(&server, &["key", "retire", acme, kid]).contains("retired"));

    let headers = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(headers.path(), "X-Env: test\n\nAuthorization: Bearer theirs\n").unwrap();
    let added = json(
        &server,
        &[
            "endpoint",
            "add",
            acme,
            "--url",
            &customer.url(),
            "--events",
            "a,b.*",
            "--events",
            "c",
            "--headers-file",
            headers.path().to_str().unwrap(),
            "--secret-file",
            &key("signing_secret.txt"),
            "--description",
            "the first",
            "--content-type",
            "json",
            "--ordered",
        ],
    );
    assert_eq!(added["events"], serde_json::json!(["a", "b.*", "c"]));
    assert_eq!(added["secret"], std::fs::read_to_string(key("signing_secret.txt")).unwrap().trim());
    let id = added["id"].as_str().unwrap();
    let test = json(&server, &["endpoint", "test", acme, id]);
    let request = customer.request();
    assert_eq!(request.headers["webhook-id"], test["messages"][0]["id"].as_str().unwrap());
    assert_eq!(
        (request.headers["x-env"].as_str(), request.headers["content-type"].as_str()),
        ("test", "application/json")
    );
    assert!(text(&server, &["endpoint", "disable", acme, id]).contains("disabled by the provider"));
    assert!(text(&server, &["endpoint", "list", acme]).contains("disabled by the provider"));
    assert!(text(&server, &["endpoint", "enable", acme, id]).contains("enabled"));
    let updated = json(
        &server,
        &["endpoint", "update", acme, id, "--events", "*", "--description", "", "--ordered", "false"],
    );
    assert_eq!((&updated["events"], &updated["description"]), (&serde_json::json!(["*"]), &Value::Null));
    assert_eq!(
        (&updated["ordered"], &updated["content_type"]),
        (&Value::Bool(false), &"application/json".into())
    );
    assert_eq!(json(&server, &["secret", "rotate", acme, id])["live_secrets"], 2);
    assert_eq!(json(&server, &["secret", "rotate", acme, id, "--overlap", "0s"])["live_secrets"], 1);
    assert_eq!(json(&server, &["endpoint", "show", acme, id])["live_secrets"], 1);

    let created = json(&server, &["api-key", "create", acme, "--description", "for the app"]);
    let listed = text(&server, &["api-key", "list", acme]);
    assert!(listed.contains("for the app") && !listed.contains(created["key"].as_str().unwrap()), "{listed}");
    let as_customer = |arguments: &[&str]| -> Output {
        tenant(&server, arguments).env("WHK_API_KEY", created["key"].as_str().unwrap()).output().unwrap()
    };
    assert!(as_customer(&["endpoint", "list", "me"]).status.success());
    assert_eq!(as_customer(&["list"]).status.code(), Some(77));
    text(&server, &["api-key", "revoke", acme, created["id"].as_str().unwrap()]);
    assert_eq!(as_customer(&["endpoint", "list", "me"]).status.code(), Some(77));

    assert!(text(&server, &["endpoint", "delete", acme, id]).contains("deleted"));
    let (code, message) = refused(&server, &["delete", acme]);
    assert_eq!((code, message.contains("--yes")), (64, true));
    assert!(text(&server, &["delete", acme, "--yes"]).contains("0 queued jobs are dropped"));
    assert_eq!(json(&server, &["list"]), serde_json::json!([]));
}

#[test]
fn each_failure_of_tenant_names_the_remedy() {
    let server = Server::tenants(&[]);
    let (code, message) = refused(&server, &["show", "Nobody"]);
    assert_eq!((code, message.contains("no such tenant")), (1, true), "{message}");
    let (code, message) = refused(&server, &["key", "add", "me", "--public-key", &key("none.pem")]);
    assert_eq!((code, message.contains("none.pem")), (66, true), "{message}");
    let (code, message) = refused(&server, &["key", "add", "me", "--public-key", &key("private_key.pem")]);
    assert_eq!((code, message.contains("private key where a public key belongs")), (64, true), "{message}");
    for (arguments, expected) in [
        (vec!["api-key", "revoke", "Acme", "whk_tenant_secret"], "key_"),
        (vec!["endpoint", "show", "Acme", "acme-1"], "ep_"),
        (
            vec!["secret", "rotate", "Acme", "ep_00000000000000000000000000000000", "--overlap", "721h"],
            "--overlap",
        ),
        (vec!["create", "Acme", "--queued-jobs", "0"], "--queued-jobs"),
        (vec!["endpoint", "update", "Acme", "ep_00000000000000000000000000000000"], "nothing to change"),
    ] {
        let (code, said) = refused(&server, &arguments);
        assert_eq!((code, said.contains(expected)), (64, true), "{arguments:?}: {said}");
    }
    let (code, message) = refused(&server, &["show", "me"]);
    assert_eq!((code, message.contains("tenant's own API key")), (1, true), "{message}");
    let (code, message) = refused(&server, &["update", "Nobody"]);
    assert_eq!((code, message.contains("--default-limits")), (64, true), "{message}");
    let unreachable =
        whk(&["tenant", "--server", "http://127.0.0.1:9", "list"]).env("WHK_API_KEY", "k").output().unwrap();
    assert_eq!(unreachable.status.code(), Some(69));
    assert!(stderr(&unreachable).contains("--server"), "{}", stderr(&unreachable));
    let keyless = whk(&["tenant", "list"]).output().unwrap();
    assert_eq!(keyless.status.code(), Some(66));
    assert!(stderr(&keyless).contains("WHK_API_KEY"), "{}", stderr(&keyless));
    let customer = Server::customer(&[]);
    let other =
        whk(&["tenant", "--server", &customer.url(""), "list"]).env("WHK_API_KEY", "k").output().unwrap();
    assert_eq!(other.status.code(), Some(1));
    assert!(stderr(&other).contains("isn't a whk publish-server"), "{}", stderr(&other));
}
