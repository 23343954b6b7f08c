use super::*;

#[expect(clippy::disallowed_methods, reason = "an Instant can't be made otherwise; from here the test holds the clock")]
fn start() -> Instant {
    Instant::now()
}

fn accounts<const COUNT: usize>(limits: &Limits) -> (Arc<Total>, [Account; COUNT]) {
    let total = Arc::new(Total::new(limits));
    let accounts = [(); COUNT].map(|()| Account::new(total.clone(), limits, start()));
    (total, accounts)
}

#[test]
fn however_many_take_all_they_can_there_is_room_for_one_more() {
    let limits = Limits { queued_bytes_max: 1 << 20, ..Limits::none() };
    let (total, accounts) = accounts::<16>(&limits);
    for account in &accounts {
        assert!(account.room() > 0);
        account.charge_queued(0, account.room());
        assert_eq!(account.scarce(), Limit::QueuedBytes);
    }
    assert!(total.queued() < 1 << 20);
    assert!(accounts[0].queued() <= 1 << 19);
    accounts.iter().for_each(|account| account.charge_queued(account.queued(), 0));
    assert_eq!(total.queued(), 0);
}

#[test]
fn who_sends_too_fast_waits_until_it_has_kept_its_rate() {
    let rate_per_user_max = Rate { messages: Some(100), bytes: Some(1000) };
    let (_, [account]) = accounts(&Limits { rate_per_user_max, ..Limits::none() });
    let mut now = start();
    let begin = now;
    for _ in 0..100 {
        now += account.charge_sent(20, 100, now);
    }
    // 2,000 messages at 100 a second, but for what is let pass at once.
    let took = now - begin;
    assert!((19_800..=20_000).contains(&took.as_millis()), "{took:?}");
    now += account.charge_sent(1, 5000, now);
    assert_eq!(now - begin - took, Duration::from_secs(5) + (took - Duration::from_secs(20)));
    let reached = account.take_reached();
    assert_eq!(
        reached.iter().map(|(limit, _)| *limit).collect::<Vec<_>>(),
        [Limit::MessagesPerSecond, Limit::BytesPerSecond]
    );
}

#[test]
fn the_rate_of_all_is_divided_among_those_who_send() {
    let rate_max = Rate { messages: None, bytes: Some(1000) };
    let (total, [account]) = accounts(&Limits { rate_max, ..Limits::none() });
    assert_eq!(account.charge_sent(1, 1000, start()), Duration::from_secs(1));
    total.set_active(4);
    let (_, [fresh]) = accounts(&Limits { rate_max, ..Limits::none() });
    fresh.total.set_active(4);
    assert_eq!(fresh.charge_sent(1, 1000, start()), Duration::from_secs(4));
}
