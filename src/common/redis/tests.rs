use std::time::Duration;

use super::config::CONNECT_TIME;
use super::*;

#[test]
fn malformed_urls_are_refused_and_passwords_hidden() {
    let of = |url: &str| RedisConfig::parse(url, "whk");
    for odd in ["", "http://127.0.0.1", "redis://", "127.0.0.1:6379", "redis://a,", "redis://h/notanumber"] {
        assert_eq!(of(odd).unwrap_err(), RedisConfigError::Url, "{odd}");
    }
    assert_eq!(of("rediss://h#insecure").unwrap_err(), RedisConfigError::Insecure);
    let with_password = of("redis://user:s3cret@redis.example:6380/3").unwrap();
    assert_eq!(format!("{with_password}"), "redis.example:6380");
    assert_eq!(with_password.database(), 3);
    assert!(!format!("{with_password:?}").contains("s3cret"));
    assert!(!with_password.is_cluster());
    assert!(of("redis://a, redis://b").unwrap().is_cluster());
}

#[test]
fn a_prefix_has_no_character_with_a_meaning_in_keys() {
    let of = |prefix: &str| RedisConfig::parse("redis://h", prefix).map(|config| config.prefix().to_owned());
    for odd in ["", "{a}", "a b", "a*", "ä", &"a".repeat(65)] {
        assert_eq!(of(odd), Err(RedisConfigError::Prefix), "{odd}");
    }
    assert_eq!(of("prod:whk_1-a"), Ok("prod:whk_1-a".to_owned()));
}

#[test]
fn root_certificates_need_tls() {
    let plain = RedisConfig::parse("redis://h", "whk").unwrap();
    assert_eq!(plain.clone().with_roots(Vec::new()).unwrap_err(), RedisConfigError::Roots);
    let certificate = rcgen::generate_simple_self_signed(["h".to_owned()]).unwrap().cert.pem().into_bytes();
    assert_eq!(plain.with_roots(certificate.clone()).unwrap_err(), RedisConfigError::RootsWithoutTls);
    let tls = RedisConfig::parse("rediss://h", "whk").unwrap();
    assert_eq!(tls.clone().with_roots(b"nothing".to_vec()).unwrap_err(), RedisConfigError::Roots);
    tls.with_roots(certificate).unwrap();
}

/// The server accepts connections and never answers.
#[tokio::test]
async fn a_command_without_an_answer_times_out() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let config = RedisConfig::parse(&format!("redis://{address}"), "whk").unwrap();
    let started = tokio::time::Instant::now();
    RedisConnection::open(&config).await.unwrap_err();
    let connection = RedisConnection::lazy(&config).unwrap();
    assert!(matches!(connection.query::<()>(&redis::cmd("PING")).await, Err(RedisFailure::TimedOut)));
    assert!(started.elapsed() < CONNECT_TIME + MAX_WAIT + Duration::from_secs(2));
}
