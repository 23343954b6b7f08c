//! Many instances at once.

#![allow(clippy::unwrap_used, reason = "a failing helper fails its test, which is its job")]

use pipebus_client::Delivery;
use pipebus_tests::{DEADLINE, TestBus, soon};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_instances_connect_at_once_and_each_gets_everything() {
    const CLIENTS: usize = 500;
    let bus = TestBus::start();
    let connecting: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let address = bus.address();
            tokio::spawn(async move {
                let name = format!("client-{number}");
                let builder = pipebus_client::Client::builder().name(name).timeout(DEADLINE);
                let client = builder.connect(&address).await.unwrap();
                let subscription = client.subscribe("all/*").await.unwrap();
                (client, subscription)
            })
        })
        .collect();
    let mut clients = Vec::new();
    for task in connecting {
        clients.push(soon("a client", task).await.unwrap());
    }
    let status = clients[0].0.request("$bus/status", "", DEADLINE).await.unwrap();
    let status: serde_json::Value = status.json().unwrap();
    assert_eq!((&status["instances"], &status["subscriptions"]), (&CLIENTS.into(), &CLIENTS.into()));
    for (number, (client, _)) in clients.iter().enumerate().step_by(50) {
        client.publish(&format!("all/{number}"), number.to_string()).await.unwrap();
    }
    for (_, subscription) in &mut clients {
        let mut got = Vec::new();
        for _ in 0..CLIENTS / 50 {
            match soon("a message", subscription.next()).await {
                Some(Delivery::Message(message)) => got.push(String::from_utf8(message.payload.to_vec()).unwrap()),
                other => panic!("{other:?}"),
            }
        }
        got.sort_by_key(|number| number.parse::<usize>().unwrap());
        let expected: Vec<String> = (0..CLIENTS).step_by(50).map(|number| number.to_string()).collect();
        assert_eq!(got, expected);
    }
    let (last, _) = clients.pop().unwrap();
    drop(clients);
    pipebus_tests::wait_until("all others to be gone", async || {
        let status = last.request("$bus/status", "", DEADLINE).await.unwrap();
        let status: serde_json::Value = status.json().unwrap();
        status["instances"] == 1 && status["queued_bytes"].as_u64().unwrap() < 1000
    })
    .await;
}
