use super::*;

fn load(file: Option<&str>, environment: &[(&str, &str)], settings: &[(&str, &str)]) -> Result<Config, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("test.toml");
    if let Some(text) = file {
        std::fs::write(&path, text).unwrap();
    }
    let own = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    let sources =
        Sources { file: file.map(|_| path), environment: own(environment), settings: own(settings), ..Sources::none() };
    Config::load(&sources).map_err(|error| error.to_string())
}

#[test]
fn the_built_in_configuration_is_valid_and_survives_being_printed() {
    let config = Config::default();
    assert_eq!(load(Some(&config.to_toml()), &[], &[]), Ok(config));
}

#[test]
fn later_layers_win() {
    let file = "[queue]\nbytes_max = 5000\nstall_timeout_ms = 1\n[limits]\ninstances_max = 20";
    let environment = [("PIPEBUSD__QUEUE__BYTES_MAX", "6000"), ("PIPEBUSD__QUEUE__STALL_TIMEOUT_MS", "2")];
    let config = load(Some(file), &environment, &[("queue.stall_timeout_ms", "3")]).unwrap();
    assert_eq!(config.limits.instances_max, 20);
    assert_eq!(config.queue, QueueSection { bytes_max: 6000, stall_timeout_ms: 3 });
}

#[test]
fn an_error_names_the_place_and_the_key() {
    let check = |got: Result<Config, String>, place: &str, key: &str| {
        let error = got.unwrap_err();
        assert!(error.contains(place) && error.contains(key), "{error}");
    };
    check(load(Some("[queue]\nbites_max = 1"), &[], &[]), "test.toml", "bites_max");
    check(load(Some("[queue]\nbytes_max = \"many\""), &[], &[]), "test.toml", "bytes_max");
    check(load(Some("[queue]\nbytes_max = 4095"), &[], &[]), "test.toml", "queue.bytes_max");
    assert!(load(Some("[queue]\nbytes_max = 4096"), &[], &[]).is_ok());
    check(load(Some("[queue"), &[], &[]), "test.toml", "queue");
    check(load(Some("[door]\naccess = \"all\""), &[], &[]), "test.toml", "access");
    check(load(Some("[door]\naccess = \"group\""), &[], &[]), "test.toml", "door.group");
    check(load(Some("[limits]\nmessage_bytes_max = 1000"), &[], &[]), "test.toml", "message_bytes_max");
    check(load(Some("[limits]\ninstances_max = 16"), &[], &[]), "test.toml", "limits.instances_reserved");
    check(load(Some("[limits]\nbytes_per_second_max = \"much\""), &[], &[]), "test.toml", "\"unlimited\"");
    check(load(Some("[limits]\nbytes_per_second_max = 0"), &[], &[]), "test.toml", "limits.bytes_per_second_max");
    check(load(Some("[metrics]\nfile = \"bus.prom\""), &[], &[]), "test.toml", "absolute path");
    check(load(Some("[metrics]\nfile = \"/dev/null\""), &[], &[]), "test.toml", ".prom");
    let absolute = std::env::temp_dir();
    let file = |section: &str, name: &str| format!("[{section}]\nfile = '{}'", absolute.join(name).display());
    assert!(load(Some(&file("metrics", "bus.prom")), &[], &[]).is_ok());
    check(load(Some("[log]\nfile = \"bus.log\""), &[], &[]), "test.toml", "log.file");
    assert!(load(Some(&file("log", "bus.log")), &[], &[]).is_ok());
    check(load(Some(&file("log", "bus.log")), &[], &[("log.format", "journald")]), "command line", "log.file");
    check(load(Some("[log]\nfile_bytes_max = 1000"), &[], &[]), "test.toml", "log.file_bytes_max");
    check(load(Some("[log]\nfiles_max = 0"), &[], &[]), "test.toml", "log.files_max");
    check(load(Some("[metrics]\ninterval_ms = 0"), &[], &[]), "test.toml", "metrics.interval_ms");
    check(load(None, &[("PIPEBUSD__QUEUE__SIZE", "1")], &[]), "environment", "size");
    check(load(None, &[("PIPEBUSD__QUEUE__BYTES_MAX", "x")], &[]), "environment", "bytes_max");
    check(load(None, &[], &[("nothing.such", "1")]), "command line", "nothing");
    check(load(None, &[], &[("bus.address", "sesion")]), "command line", "sesion");
}

#[test]
fn rules_that_make_no_sense_are_refused_by_their_number() {
    let check = |rule: &str, what: &str| {
        let file = format!("[policy]\nrules = [{{ who = [\"any\"], allow = [\"all\"] }}, {{ {rule} }}]");
        let error = load(Some(&file), &[], &[]).unwrap_err();
        assert!(error.contains("test.toml") && error.contains(what), "{error}");
    };
    check("who = [], allow = [\"all\"]", "rule 2");
    check("who = [\"ann\"], allow = [\"all\"]", "user:NAME");
    check("who = [\"uid:x\"], allow = [\"all\"]", "no number");
    check("who = [\"any\"]", "allow or deny");
    check("who = [\"any\"], allow = [\"all\"], deny = [\"all\"]", "allow or deny");
    check("who = [\"any\"], allow = [\"dance\"]", "dance");
    check("who = [\"any\"], allow = [\"all\"], topics = [\"a//b\"]", "topics");
    check("who = [\"any\"], allow = [\"all\"], audit = \"failure\"", "never fails");
    check("who = [\"any\"], allow = [\"all\"], color = \"red\"", "color");
}

#[test]
fn rules_can_be_set_on_the_command_line() {
    let rules = "[{ who = [\"uid:5\"], deny = [\"publish\"], topics = [\"a/**\"] }]";
    let config = load(None, &[], &[("policy.rules", rules)]).unwrap();
    assert_eq!((config.policy.rules.len(), &config.policy.rules[0].who[0][..]), (1, "uid:5"));
    assert_eq!(load(Some(&config.to_toml()), &[], &[]), Ok(config));
}

#[test]
fn what_goes_together_may_come_from_several_places() {
    let group = Some("[door]\ngroup = \"users\"");
    assert!(load(group, &[("PIPEBUSD__DOOR__ACCESS", "group")], &[]).is_ok());
    let both = Some("[door]\ngroup = \"users\"\naccess = \"group\"");
    let error = load(both, &[], &[("door.group", "\"\"")]).unwrap_err();
    assert!(error.contains("command line") && error.contains("door.group"), "{error}");
}

#[test]
fn environment_variables_of_the_client_are_not_meant() {
    let others = [("PIPEBUS_BUS", "/x"), ("PIPEBUS_LOG", "debug")];
    assert_eq!(load(None, &others, &[]), Ok(Config::default()));
}

#[test]
fn what_a_service_sets_is_not_what_anybody_has_written() {
    let defaults = vec![("bus.address".to_owned(), "system".to_owned()), ("log.filter".to_owned(), "warn".to_owned())];
    let settings = vec![("log.filter".to_owned(), "debug".to_owned())];
    let config = Config::load(&Sources { defaults, settings, ..Sources::none() }).unwrap();
    assert_eq!((config.bus.address.as_str(), config.log.filter.as_str()), ("system", "debug"));
}
