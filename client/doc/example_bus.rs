// A broker inside the program, for the examples in the documentation, which include this expression.
{
    let directory = tempfile::tempdir()?;
    let address = directory.path().join("bus").display().to_string();
    let mut config = pipebusd::config::Config::default();
    config.bus.address.clone_from(&address);
    tokio::spawn(pipebusd::Daemon::bind(config)?.run(std::future::pending()));
    (directory, address)
}
