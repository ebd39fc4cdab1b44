//! Which names are refused, and which belong to somebody else.

use super::*;
use crate::settings::unknown::is_service_link;

#[test]
fn a_settings_file_must_hold_known_keys_once() {
    let inputs = Inputs::new().toml(
        "port = 1\nPORT = 2\nanything = 3\nkafka.brokers = \"a:1\"\n[api]\ngroup_comit = true\n[port_]\nx = 1\n",
    );
    assert_eq!(
        inputs.problems(),
        [
            "anything in order.toml is not a setting",
            "api.group_comit in order.toml is not a setting; did you mean api.group_commit?",
            "kafka.brokers in order.toml is not a setting; did you mean kafka_brokers?",
            "port_.x in order.toml is not a setting",
            "PORT in order.toml and port in order.toml are the same setting",
        ]
    );
}

#[test]
fn a_variable_in_our_namespaces_must_be_known() {
    let inputs = Inputs::new()
        .env("API__GROUP_COMMIT", "on")
        .env("RELAY__ANYTHING", "1")
        .dotenv("CONSUMER__ANYTHING=1\nOTHER__ANYTHING=1\n");
    assert_eq!(
        inputs.problems(),
        [
            "CONSUMER__ANYTHING in .env is not a setting",
            "RELAY__ANYTHING is not a setting",
        ]
    );
}

#[test]
fn a_near_miss_of_a_setting_that_is_not_set_is_refused() {
    let inputs = Inputs::new()
        .env("KAFKA_BROKER", "a:9092")
        .dotenv("DATABSE_ULR=x\n");
    assert_eq!(
        inputs.problems(),
        [
            "DATABSE_ULR in .env is not a setting; did you mean DATABASE_URL?",
            "KAFKA_BROKER is not a setting; did you mean KAFKA_BROKERS?",
        ]
    );
    let inputs = inputs
        .env("KAFKA_BROKERS", "a:9092")
        .toml("database_url = \"x\"");
    assert!(inputs.problems().is_empty());
    let inputs = Inputs::new()
        .env("KAFKA_BROKER", "a:9092")
        .env("KAFKA_BROKERS", "");
    assert_eq!(inputs.problems().len(), 1, "an empty variable is not set");
}

#[test]
fn variables_of_others_are_left_alone() {
    let names = [
        // Kubernetes, for services called "ops", "app", "kafka" and "api--x".
        "OPS_SERVICE_HOST",
        "OPS_SERVICE_PORT",
        "OPS_SERVICE_PORT_HTTP",
        "APP_PORT",
        "KAFKA_PORT",
        "KAFKA_PORT_9092_TCP",
        "KAFKA_PORT_9092_TCP_ADDR",
        // Compose and the images next to a service.
        "POSTGRES_USER",
        "COMPOSE_PROJECT_NAME",
        // A shell.
        "HOST",
        "PATH",
        "PWD",
        "RUSTC_LOG",
        "RUST_BACKTRACE",
    ];
    let inputs = names
        .into_iter()
        .fold(Inputs::new(), |inputs, name| inputs.env(name, "x"));
    assert_eq!(inputs.problems(), [""; 0]);
    // The list the services use, not the example's.
    let pairs = names.into_iter().map(|name| (name, "x"));
    Source::from_pairs(pairs)
        .unwrap()
        .reader()
        .finish()
        .unwrap();
}

#[test]
fn known_settings_are_declared_once_and_none_is_taken_for_another() {
    for setting in KNOWN {
        let same = KNOWN.iter().filter(|other| other.name == setting.name);
        assert_eq!(same.count(), 1, "{}", setting.name);
        assert!(!setting.services.is_empty(), "{}", setting.name);
        let pairs = [(setting.name, "x")];
        Source::from_pairs(pairs)
            .unwrap()
            .reader()
            .finish()
            .unwrap();
    }
}

#[test]
fn service_links_are_told_from_settings() {
    for link in [
        "OPS_SERVICE_HOST",
        "OPS_SERVICE_PORT",
        "OPS_SERVICE_PORT_HTTP",
        "OPS_PORT",
        "OPS_PORT_9101_TCP",
        "OPS_PORT_9101_TCP_ADDR",
        "DNS_PORT_53_UDP",
    ] {
        assert!(is_service_link(link), "{link}");
    }
    for other in [
        "PORT",
        "OPS_PORTS",
        "OPS_PORT_X",
        "OPS_PORT_9101",
        "SERVICE_HOSTS",
    ] {
        assert!(!is_service_link(other), "{other}");
    }
}
