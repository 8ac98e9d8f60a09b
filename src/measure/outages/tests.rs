use super::*;
use proptest::prelude::*;

const S: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;

/// A request as (due, done, ok), milliseconds; sent when it was due.
type Request = (u64, u64, bool);

/// What all threads noted together in each second.
fn pulses(requests: &[Request], end_ms: u64, threads: usize) -> Vec<(Pulse, u64)> {
    let mut seconds = Vec::new();
    for second in 0..=end_ms / 1_000 {
        let mut sum = (Pulse::default(), 0);
        for thread in 0..threads {
            let mine = || requests.iter().skip(thread).step_by(threads);
            let asked = |due: u64| Asked { due_ns: due * MS, sent_ns: Some(due * MS) };
            let mut pulse = Pulse::default();
            let mut ended: Vec<&Request> = mine().filter(|(_, done, _)| done / 1_000 == second).collect();
            ended.sort_by_key(|(_, done, _)| *done);
            for (due, done, ok) in ended {
                if *ok {
                    pulse.ok(asked(*due), done * MS);
                    sum.1 += 1;
                } else {
                    pulse.failed(asked(*due), done * MS);
                }
            }
            let pending = mine().filter(|(due, done, _)| due / 1_000 <= second && done / 1_000 > second);
            pulse.end(pending.map(|(due, ..)| asked(*due)), (second + 1) * S);
            sum.0.merge(&pulse);
        }
        seconds.push(sum);
    }
    seconds
}

fn found(requests: &[Request], end_ms: u64, threads: usize, stalls: &[Span]) -> Vec<Outage> {
    let mut outages = Outages::default();
    pulses(requests, end_ms, threads).iter().for_each(|(pulse, acknowledged)| outages.add(pulse, *acknowledged));
    let mut took: Vec<u64> = requests.iter().filter(|request| request.2).map(|(due, done, _)| done - due).collect();
    took.sort_unstable();
    outages.finish(end_ms * MS, None, took.get(took.len() / 2).map(|ms| ms * MS), stalls)
}

fn outages(requests: &[Request], end_ms: u64, threads: usize) -> Vec<Outage> {
    found(requests, end_ms, threads, &[])
}

fn times(found: &[Outage]) -> Vec<(f64, Option<f64>, Option<f64>)> {
    found.iter().map(|outage| (outage.started_s, outage.first_error_s, outage.recovered_s)).collect()
}

fn steady(from_ms: u64, to_ms: u64) -> impl Iterator<Item = Request> {
    (from_ms..to_ms).step_by(10).map(|due| (due, due + 2, true))
}

#[test]
fn a_restart_is_an_outage_from_the_first_slot_after_the_last_answer_to_the_next_answer() {
    let errors = (3_000..5_500).step_by(50).map(|at| (at, at + 1, false));
    let requests: Vec<_> = steady(0, 3_000).chain(errors).chain(steady(5_500, 9_000)).collect();
    for threads in 1..4 {
        let found = outages(&requests, 9_000, threads);
        assert_eq!(times(&found), [(3.0, Some(3.001), Some(5.502))]);
        assert!((found[0].seconds - 2.502).abs() < 1e-9);
    }
}

#[test]
fn a_request_in_flight_makes_it_begin_with_the_last_answer() {
    let frozen = [(1_991, 4_100, true)];
    let requests: Vec<_> = steady(0, 2_000).chain(frozen).chain(steady(4_100, 6_000)).collect();
    for threads in 1..4 {
        assert_eq!(times(&outages(&requests, 6_000, threads)), [(1.992, None, Some(4.1))]);
    }
}

#[test]
fn a_schedule_with_nothing_due_has_no_outages() {
    let rare = |ok: fn(u64) -> bool| -> Vec<_> { (0..20).map(|at| (at * 2_000, at * 2_000 + 3, ok(at))).collect() };
    // One request in two seconds. Some fail at once.
    for ok in [|_| true, |at| at % 2 == 0, |at| at % 4 == 0, |at| at >= 4] as [fn(u64) -> bool; 4] {
        assert_eq!(outages(&rare(ok), 40_000, 2), []);
    }
    // The same, and the database is away from 6.5 s to 11 s: requests wait for it.
    let mut down = rare(|_| true);
    down.splice(4..6, [(8_000, 11_000, true), (10_000, 11_001, true)]);
    assert_eq!(times(&outages(&down, 40_000, 2)), [(8.0, None, Some(11.0))]);
}

#[test]
fn connections_that_are_lost_while_nothing_is_due_are_no_outage() {
    let mut outages = Outages::default();
    for second in 0..8 {
        let mut pulse = Pulse::default();
        pulse.error(second * S + 300 * MS);
        if second % 4 == 0 {
            let asked = Asked { due_ns: second * S, sent_ns: Some(second * S) };
            pulse.ok(asked, second * S + 3 * MS);
        }
        outages.add(&pulse, u64::from(second % 4 == 0));
    }
    assert_eq!(outages.finish(8 * S, Some(8 * S), Some(3 * MS), &[]), []);
}

#[test]
fn errors_without_any_answer_are_one_outage() {
    let requests: Vec<_> = (0..500).map(|at| (at * 10, at * 10 + 1, false)).collect();
    let found = outages(&requests, 5_000, 3);
    assert_eq!(times(&found), [(0.0, Some(0.001), None)]);
    assert!((found[0].seconds - 5.0).abs() < 1e-9);
}

#[test]
fn requests_that_always_take_long_are_no_outage() {
    // One worker whose requests take two seconds each, with and without a schedule.
    let slow: Vec<_> = (0..10).map(|at| (at * 10, (at + 1) * 2_000, true)).collect();
    assert_eq!(outages(&slow, 20_000, 1), []);
    let mut closed = Outages::new(true);
    pulses(&slow, 20_000, 1).iter().for_each(|(pulse, acknowledged)| closed.add(pulse, *acknowledged));
    assert_eq!(closed.finish(20_000 * MS, Some(0), Some(2 * S), &[]), []);
    // One of two workers waits for a lock while the other one's requests are answered.
    let stuck = (0..10).map(|at| (at * 2_000, at * 2_000 + 3, true)).chain([(1_000, 17_000, true)]).collect::<Vec<_>>();
    assert!(outages(&stuck, 20_000, 2).len() <= 1);
}

#[test]
fn in_a_closed_loop_every_silence_counts() {
    let requests: Vec<_> = steady(0, 2_000).chain(steady(5_000, 6_000)).collect();
    let mut closed = Outages::new(true);
    pulses(&requests, 6_000, 1).iter().for_each(|(pulse, acknowledged)| closed.add(pulse, *acknowledged));
    assert_eq!(times(&closed.finish(6 * S, Some(0), Some(2 * MS), &[])), [(1.992, None, Some(5.002))]);
    assert_eq!(outages(&requests, 6_000, 1), []);
}

#[test]
fn an_outage_may_last_to_the_end() {
    let requests: Vec<_> = steady(0, 2_000).chain([(2_100, 60_000, false)]).collect();
    let found = outages(&requests, 6_000, 2);
    assert_eq!(times(&found), [(2.1, None, None)]);
    assert!((found[0].seconds - 3.9).abs() < 1e-9, "{found:?}");
    // No worker has a connection, so that nobody takes the next slot.
    let mut left = Outages::default();
    pulses(&steady(0, 2_000).collect::<Vec<_>>(), 6_000, 1).iter().for_each(|(pulse, ok)| left.add(pulse, *ok));
    assert_eq!(times(&left.finish(6 * S, Some(2 * S), Some(2 * MS), &[])), [(2.0, None, None)]);
    // A single error among answers is none.
    let mut sorted: Vec<_> = steady(0, 2_000).chain([(1_000, 1_001, false)]).collect();
    sorted.sort_by_key(|(_, done, _)| *done);
    assert_eq!(outages(&sorted, 2_000, 2), []);
}

#[test]
fn a_generator_that_stood_still_is_no_outage_and_does_not_lengthen_one() {
    let waiting = (2_000..5_000).step_by(10).map(|due| (due, 5_001 + due / 100, true));
    let requests: Vec<_> = steady(0, 2_000).chain(waiting).chain(steady(5_000, 8_000)).collect();
    let stalls = [Span { start_ns: 1_990 * MS, end_ns: 5_000 * MS }];
    assert_eq!(outages(&requests, 8_000, 2).len(), 1);
    assert_eq!(found(&requests, 8_000, 2, &stalls), []);
    // Half a second before it and a second and a half after it nothing was acknowledged.
    let stalls = [Span { start_ns: 2_500 * MS, end_ns: 3_500 * MS }];
    let found = found(&requests, 8_000, 2, &stalls);
    assert!((found[0].seconds - 2.002).abs() < 1e-9 && found[0].started_s == 2.0, "{found:?}");
}

/// The law, told for all requests of a run at once.
fn by_law(requests: &[Request], end_ms: u64) -> Vec<(u64, u64)> {
    let mut acknowledged: Vec<u64> = requests.iter().filter(|request| request.2).map(|request| request.1).collect();
    acknowledged.sort_unstable();
    let mut found = Vec::new();
    for (from, to) in [0].iter().chain(&acknowledged).zip(acknowledged.iter().chain([&end_ms])) {
        let mut due: Vec<(u64, u64)> = requests
            .iter()
            .filter(|(due, done, _)| done > from && due < to)
            .map(|(due, done, _)| (*due.max(from), *done.min(to)))
            .collect();
        due.sort_unstable();
        let mut chains: Vec<(u64, u64)> = Vec::new();
        for (start, end) in due {
            match chains.last_mut() {
                Some(chain) if start - chain.1.min(start) < 1_000 => chain.1 = chain.1.max(end),
                _ => chains.push((start, end)),
            }
        }
        found.extend(chains.iter().find(|chain| chain.1 - chain.0 >= 1_000).map(|chain| (chain.0, *to)));
    }
    found
}

proptest! {
    #[test]
    fn what_is_found_second_by_second_on_many_threads_is_what_the_law_says(
        mut requests in prop::collection::vec((0u64..30_000, 1u64..1_500, any::<bool>()), 0..60),
        threads in 1usize..4,
    ) {
        requests.iter_mut().for_each(|(due, done, _)| *done += *due);
        // Not two at once, and the end of the last second is the end of the run.
        requests.sort_by_key(|(_, done, _)| *done);
        requests.dedup_by_key(|(_, done, _)| *done);
        requests.retain(|(_, done, _)| *done < 31_999);
        let mut outages = Outages::default();
        pulses(&requests, 31_999, threads).iter().for_each(|(pulse, ok)| outages.add(pulse, *ok));
        let found: Vec<(u64, u64)> =
            outages.gaps_until(32_000 * MS).iter().map(|gap| (gap.chain.start_ns / MS, gap.end_ns / MS)).collect();
        prop_assert_eq!(found, by_law(&requests, 32_000));
    }
}
