//! The way to the bus that all commands share.

use pipebus_client::{Client, Link};
use pipebus_proto::place::Address;
use tokio::sync::watch;

use crate::failure::Failure;
use crate::output::complain;

/// Connects as `pipebus COMMAND`, the name that people see in the list of instances.
pub(crate) async fn connect(bus: &Address, command: &str) -> Result<Client, Failure> {
    let client = Client::builder().name(format!("pipebus {command}"));
    Ok(client.connect(&bus.to_string()).await?)
}

/// The same, for commands that have to do with nobody but the broker: it lets them in also while it drains.
pub(crate) async fn visit(bus: &Address, command: &str) -> Result<Client, Failure> {
    let client = Client::builder().name(format!("pipebus {command}")).visit(true);
    Ok(client.connect(&bus.to_string()).await?)
}

/// Says so whenever the connection is lost, with the number of messages that are newly in doubt.
pub(crate) async fn report_losses(mut link: watch::Receiver<Link>) {
    let mut reported = 0;
    while link.changed().await.is_ok() {
        let Link::Down { in_doubt } = *link.borrow_and_update() else { continue };
        complain(&loss(in_doubt.saturating_sub(reported)));
        reported = in_doubt;
    }
}

fn loss(in_doubt: u64) -> String {
    let lost = "the connection to the broker was lost";
    match in_doubt {
        0 => format!("{lost}; connecting again"),
        1 => format!("{lost} with 1 message in doubt, which may or may not have arrived; connecting again"),
        _ => format!("{lost} with {in_doubt} messages in doubt, which may or may not have arrived; connecting again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_says_how_many_messages_are_in_doubt() {
        assert_eq!(loss(0), "the connection to the broker was lost; connecting again");
        assert!(loss(1).contains("1 message in doubt"));
        assert!(loss(2).contains("2 messages in doubt"));
    }
}
