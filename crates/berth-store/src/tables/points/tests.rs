//! Points: packed, added up, forgotten, counted once.

use super::{Point, SumKind, Used, end_of, pack, parts, share, sum, unpack};
use crate::{Error, KnownMeter, MeterReading, Store};

const STEPS: [i64; 2] = [300, 3600];

fn used(bytes: i64) -> Used {
    Used { rx_bytes: bytes, tx_packets: 1, ..Used::default() }
}

fn store(name: &str) -> (std::path::PathBuf, Store) {
    let folder = std::env::temp_dir().join(format!("berth-store-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("folder");
    let store = Store::open(&folder.join("berth.db")).expect("store");
    (folder, store)
}

const CONTAINER: &str = "INSERT INTO accounts (id, name, created_at) VALUES (1, 'a', 0);
    INSERT INTO containers (id, uid, account_id, name, image, image_digest, layers, spec, wanted, state, run, detail,
    created_at, host_id) VALUES (7, 'u', 1, 'n', 'i:1', '', '', '', 'running', 'running', 1, '{}', 5, 3)";

fn reading(live: bool, ended_at: Option<i64>) -> MeterReading {
    MeterReading { last: "{}".into(), live, ended_at, image: "i:1".into(), image_name: "i".into() }
}

#[test]
fn points_are_packed_without_loss() {
    let extremes = Used { ran: i64::MAX, cpu: i64::MIN, memory: -1, tx_packets: 64, ..Used::default() };
    for (point, until) in [
        (Point { at: 1_795_000_000_123, since: 1_794_999_990_123, used: used(123_456) }, 1_795_000_200_000),
        (Point { at: 300, since: 0, used: Used::default() }, 300),
        (Point { at: 10, since: 9, used: extremes }, 300),
    ] {
        let mut packed = Vec::new();
        pack(&mut packed, until, &point);
        assert_eq!(unpack(&mut packed.as_slice(), until), Some(point));
        for cut in 0..packed.len() {
            assert_eq!(unpack(&mut &packed[..cut], until), None, "cut off after {cut}");
        }
    }
    assert_eq!([end_of(1, 300), end_of(300, 300), end_of(301, 300), end_of(0, 300)], [300, 300, 600, 0]);
    let usual = Used {
        ran: 10_000,
        cpu: 1_234_567,
        memory: 64 * 10_000,
        disk: 3 * 10_000,
        rx_bytes: 1_250_000,
        tx_bytes: 12_500_000,
        rx_packets: 1000,
        tx_packets: 9000,
        ..Used::default()
    };
    let mut packed = Vec::new();
    pack(&mut packed, 300_000, &Point { at: 150_000, since: 140_000, used: usual });
    assert!(packed.len() <= 40, "{} bytes for a busy container's reading", packed.len());
}

#[tokio::test]
async fn points_are_added_up_forgotten_and_never_counted_twice() {
    let (folder, store) = store("points");
    let total = |points: &[Point]| points.iter().map(|p| p.used.rx_bytes).sum::<i64>();
    let work = move |tx: &crate::Tx<'_>| -> Result<(), Error> {
        tx.connection.execute_batch(CONTAINER)?;
        let of = tx.measured(7)?.expect("container");
        assert_eq!((of.host_id, of.meter.clone()), (3, None));
        let id = tx.meter_note(&of, &reading(true, None))?.expect("meter");
        let of = tx.measured(7)?.expect("container");
        let known = KnownMeter {
            id,
            live: true,
            last: "{}".into(),
            name: "n".into(),
            plan: None,
            ended: false,
            image_name: "i".into(),
        };
        assert_eq!(of.meter, Some(known));
        assert_eq!(tx.meter_note(&of, &reading(false, None))?, Some(id), "changed, not added");
        // Every ten from 10 to 9000, of one byte more each time.
        let sum_of = |from: i64, to: i64| (from / 10 + 1..=to / 10).sum::<i64>();
        for n in 1..=900 {
            tx.round_add(
                &[(id, Point { at: n * 10, since: n * 10 - 10, used: used(n) }), (99, Point::default())],
                STEPS,
            )?;
        }
        let points = |from: i64, to: i64| tx.points(id, from, to, STEPS, &tx.recent(from, Some(&[id].into()))?);
        let check_sums = |when: &str| -> Result<(), Error> {
            for (from, to) in
                [(0, 9000), (0, 1), (5, 15), (3595, 7205), (10, 8990), (3600, 7200), (7000, 9999), (-5, 3)]
            {
                let exact = sum(&points(from, to)?, from, to, STEPS[1]);
                let found = tx.used(id, from, to, STEPS, &tx.recent(from, None)?)?;
                assert_eq!(found, exact, "{when}: {from} to {to}");
            }
            Ok(())
        };
        assert_eq!(total(&points(i64::MIN, i64::MAX)?), sum_of(0, 9000));
        check_sums("as it came")?;
        tx.points_add_up(3600, STEPS)?;
        tx.points_add_up(7200, STEPS)?;
        assert_eq!(total(&points(i64::MIN, i64::MAX)?), sum_of(0, 9000), "not twice");
        check_sums("added up")?;
        for (kind, key) in [(SumKind::Host, "3"), (SumKind::Image, "i"), (SumKind::Version, "i:1")] {
            let sums = tx.sums(kind, Some(1), Some(key), 0, 9000, 100)?;
            assert_eq!((sums.len(), sums.iter().map(|s| s.rx_bytes).sum::<i64>()), (24, sum_of(0, 7200)), "{kind:?}");
            let some = tx.sums(kind, None, None, 3600, 7200, 100)?;
            assert_eq!(some.iter().map(|s| s.rx_bytes).sum::<i64>(), sum_of(3600, 7200));
            assert_eq!(tx.sums(kind, None, None, 3600, 7200, 5)?.len(), 5, "so many at most");
            assert!(tx.sums(kind, Some(2), Some(key), 0, 9000, 100)?.is_empty());
        }
        tx.points_forget(7200, 3600, i64::MIN, STEPS)?;
        let all = points(i64::MIN, i64::MAX)?;
        assert_eq!((total(&all), all.len()), (sum_of(0, 9000), 1 + 12 + 180), "an hour, an hour in twelve, readings");
        assert!(all.windows(2).all(|pair| pair[0].at == pair[1].since), "no gap, no overlap");
        let some = points(3600, 7200)?;
        assert_eq!((total(&some), some.len()), (sum_of(3600, 7200), 12));
        assert_eq!(points(7190, 7215)?.len(), 1 + 2, "what overlaps");
        assert_eq!(tx.used(id, i64::MIN, i64::MAX, STEPS, &tx.recent(0, None)?)?.rx_bytes, sum_of(0, 9000));
        assert_eq!(tx.meters(Some(1), 0, 100)?.len(), 1);
        assert_eq!(tx.meters(Some(1), 0, 5)?.len() + tx.meters(Some(2), 0, 100)?.len(), 0);
        let of = tx.measured(7)?.expect("container");
        assert_eq!(tx.meter_note(&of, &reading(false, Some(50)))?, Some(id));
        assert_eq!(tx.meter_note(&of, &reading(true, None))?, None, "it has ended");
        assert_eq!((tx.meters(None, 51, 100)?.len(), tx.meters(None, 50, 100)?.len()), (0, 1));
        // Nothing is left of a meter that is forgotten.
        tx.points_forget(7200, 3600, 1, STEPS)?;
        let count = |sql: &str| tx.connection.query_row(sql, [], |row| row.get::<_, i64>(0));
        assert_eq!((count("SELECT COUNT(*) FROM meters")?, count("SELECT COUNT(*) FROM segments")?), (0, 0));
        Ok(())
    };
    store.write(work).await.expect("write");
    std::fs::remove_dir_all(folder).expect("clean");
}

#[tokio::test]
async fn points_of_older_databases_are_packed() {
    let folder = std::env::temp_dir().join(format!("berth-store-old-points-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("folder");
    let file = folder.join("berth.db");
    {
        let old = rusqlite::Connection::open(&file).expect("file");
        for (text, _) in &crate::database::MIGRATIONS[..5] {
            old.execute_batch(text).expect("migration");
        }
        old.pragma_update(None, "user_version", 5).expect("version");
        old.execute_batch(CONTAINER).expect("container");
        old.execute_batch(
            "INSERT INTO meters (id, account_id, container_id, uid, name, image, image_name, live, last, created_at)
             VALUES (1, 1, 7, 'u', 'n', 'i:1', 'i', 1, '{}', 5)",
        )
        .expect("meter");
        let add = "INSERT INTO points (step, meter_id, at, since, ran, cpu, memory, block_read, block_write, rx_bytes,
                   rx_packets, tx_bytes, tx_packets) VALUES ($1, 1, $2, $3, 1, 2, 3, 4, 5, $4, 7, 8, 9)";
        // Until 3,600,000 all is added up; what is after that is readings alone.
        for (step, count) in [(10_000, 400), (300_000, 12), (3_600_000, 1)] {
            for n in 1..=count {
                let kind = if step == 10_000 { 0 } else { step };
                old.execute(add, [kind, n * step, (n - 1) * step, 2 * step]).expect("point");
            }
        }
        old.execute_batch("INSERT INTO server (key, value) VALUES ('points_added_up', '3600000')").expect("horizon");
    }
    let store = Store::open(&file).expect("migrated");
    let check = |tx: &crate::Tx<'_>| -> Result<(), Error> {
        const STEPS: [i64; 2] = [300_000, 3_600_000];
        let points = |recent| tx.points(1, 0, i64::MAX, STEPS, &recent);
        assert_eq!(points(tx.recent(0, None)?)?.len(), 400);
        let used = tx.used(1, 0, i64::MAX, STEPS, &tx.recent(0, None)?)?;
        assert_eq!((used.rx_bytes, used.tx_packets), (8_000_000, 9 + 9 * 40), "an hour as one, the rest as it was");
        tx.points_add_up(4_200_000, STEPS)?;
        tx.points_forget(3_600_000, 0, i64::MIN, STEPS)?;
        assert_eq!(points(tx.recent(0, None)?)?.len(), 12 + 40);
        assert_eq!(tx.sums(SumKind::Host, None, None, 0, i64::MAX, 100)?.len(), 2, "two more of five minutes");
        Ok(())
    };
    store.write(check).await.expect("read");
    std::fs::remove_dir_all(folder).expect("clean");
}

#[tokio::test]
async fn what_reaches_over_an_hours_end_is_counted_once() {
    let (folder, store) = store("straddling");
    let work = move |tx: &crate::Tx<'_>| -> Result<(), Error> {
        tx.connection.execute_batch(CONTAINER)?;
        let of = tx.measured(7)?.expect("container");
        let id = tx.meter_note(&of, &reading(true, None))?.expect("meter");
        // Readings come a moment after the full ten seconds.
        for n in 1..=1080 {
            let at = n * 10 + 3;
            tx.round_add(&[(id, Point { at, since: at - 10, used: used(10) })], STEPS)?;
        }
        for added_up in [0, 3600, 7200] {
            if added_up > 0 {
                tx.points_add_up(added_up, STEPS)?;
            }
            let bytes = |from, to| Ok::<_, Error>(tx.used(id, from, to, STEPS, &tx.recent(from, None)?)?.rx_bytes);
            let whole = bytes(0, 10_803)?;
            assert_eq!(whole, 10_800);
            for cut in [3600, 7200] {
                assert_eq!(bytes(0, cut)? + bytes(cut, 10_803)?, whole, "cut at {cut}, added up to {added_up}");
            }
            for cut in [1, 3599, 3602, 3605, 7199, 7201, 9000] {
                let parts = bytes(0, cut)? + bytes(cut, 10_803)?;
                assert!((whole - 1..=whole).contains(&parts), "{parts} cut at {cut}, added up to {added_up}");
            }
        }
        Ok(())
    };
    store.write(work).await.expect("write");
    std::fs::remove_dir_all(folder).expect("clean");
}

#[test]
fn parts_of_points_are_shared_out() {
    let point = |since, at, bytes| Point { at, since, used: Used { rx_bytes: bytes, ..Used::default() } };
    let points = [point(0, 10, 100), point(10, 30, 7)];
    let sum = |from, to| sum(&points, from, to, 3600).rx_bytes;
    assert_eq!((sum(0, 30), sum(5, 30), sum(30, 40)), (107, 57, 0));
    assert!(sum(0, 15) + sum(15, 30) <= 107);
    assert_eq!(share(i64::MAX, 1, 3), i64::MAX / 3);
}

#[test]
fn time_in_which_nobody_looked_is_spread_evenly() {
    let point = |since, at, bytes| Point { at, since, used: used(bytes) };
    let whole = |parts: &[Point]| {
        parts.iter().fold(Used::default(), |mut sum, part| {
            sum.add(&part.used);
            sum
        })
    };
    // Within one step: as it is.
    assert_eq!(parts(&point(10, 290, 7), 300, i64::MIN), [point(10, 290, 7)]);
    // An hour: a share for each five minutes, nothing lost.
    let hour = parts(&point(150, 3750, 3600), 300, 0);
    assert_eq!(hour.len(), 13);
    assert_eq!(
        hour.iter().map(|p| p.used.rx_bytes).collect::<Vec<_>>(),
        [[150].as_slice(), &[300; 11], &[150]].concat()
    );
    assert_eq!((hour[0].since, hour[12].at, whole(&hour)), (150, 3750, used(3600)));
    assert!(hour.windows(2).all(|pair| pair[0].at == pair[1].since));
    // What is added up already takes no more.
    let late = parts(&point(0, 1000, 1000), 300, 600);
    assert_eq!(late.iter().map(|p| (p.since, p.at)).collect::<Vec<_>>(), [(0, 900), (900, 1000)]);
    assert_eq!(whole(&late), used(1000));
    // A clock that was wrong by decades does not make millions of them.
    let decades = parts(&point(0, 1_800_000_000_000, i64::MAX), 300_000, i64::MIN);
    assert!(decades.len() <= 290, "{}", decades.len());
    assert_eq!(whole(&decades).rx_bytes, i64::MAX);
    // Little that was used long ago is in few.
    assert!(parts(&point(0, 86_400_000, 3), 300_000, 0).len() <= 4);
}

#[test]
fn containers_count_as_many_as_ran_at_a_time() {
    let point = |since: i64, at: i64, ran: i64| Point { since, at, used: Used { ran, ..Used::default() } };
    let of = |points: &[Point]| {
        let mut spans = Vec::new();
        points.iter().for_each(|point| super::note_span(&mut spans, point, 0));
        spans
    };
    // One that ran all the time, in three readings; one and its successor; one that never ran.
    let all = of(&[point(0, 100, 100), point(100, 200, 100), point(200, 300, 100)]);
    assert_eq!(all, [(0, 300)]);
    let old = of(&[point(0, 100, 100), point(100, 200, 0)]);
    let new = of(&[point(0, 100, 0), point(100, 300, 200)]);
    assert_eq!((old.as_slice(), new.as_slice()), (&[(0, 100)][..], &[(100, 300)][..]));
    assert!(of(&[point(0, 300, 0)]).is_empty());
    assert_eq!(super::most_at_once(&[all.clone(), old.clone(), new.clone()].concat()), 2, "not three");
    assert_eq!(super::most_at_once(&[old, new].concat()), 1);
    // One that ended in the middle of a reading ran up to then; one that began in it, from then on.
    assert_eq!(of(&[point(0, 100, 100), point(100, 200, 30)]), [(0, 130)]);
    assert_eq!(of(&[point(100, 200, 30)]), [(170, 200)]);
    assert_eq!(super::most_at_once(&[]), 0);
}
