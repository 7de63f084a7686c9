//! Brings rules, plans and steps together: one command of a target at a time, in the order accepted.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use berth_identity::Caller;
use berth_types::now;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::domain::{Domain, Operation, Step, Work};
use crate::progress::{Effect, Event, Progress, StepProgress, StepState, after};
use crate::queue::{QueuedOperation, target_of};
use crate::types::{CommandStatus, Done, Method, Outcome, PlannedStep, Target};
use crate::{Error, Operations};

/// Time that a step has beyond its command's to come to an end by itself.
const LAST_RESORT: Duration = Duration::from_secs(120);
/// The message of a step, and of its command, that found everything as it should be.
pub const UNCHANGED: &str = "unchanged";

/// Whether a step of a kind that replaces has put a container in another's place: one that had nothing to do has no container, or says so.
pub fn has_replaced(row: &berth_store::OperationStep) -> bool {
    Outcome::of(&row.result) == Some(Outcome::Success) && row.container_id > 0 && row.message != UNCHANGED
}
/// Pause after a command could not be taken further; doubled with each time in a row.
const PAUSE: Duration = Duration::from_millis(250);
/// The longest of those pauses.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// So often in a row a command may meet a fault of this program; then it has failed, and others get their turn.
const FAULTS: u32 = 5;

/// Targets whose commands are being driven, and whether something came since the driver looked.
#[derive(Debug, Default)]
pub(crate) struct Driving(Mutex<HashMap<Target, bool>>);

/// Commands under way that can be told to stop.
#[derive(Debug, Default)]
pub(crate) struct Cancels(Mutex<HashMap<i64, Arc<Notify>>>);

impl Cancels {
    fn begin(&self, id: i64) -> Cancel<'_> {
        let stop = self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_default().clone();
        Cancel { of: self, id, stop }
    }

    /// Has whoever drives it look whether it is to stop.
    pub(crate) fn tell(&self, id: i64) {
        if let Some(waiting) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&id) {
            waiting.notify_one();
        }
    }
}

/// A command that can be told to stop until this is dropped.
struct Cancel<'a> {
    of: &'a Cancels,
    id: i64,
    stop: Arc<Notify>,
}

impl Drop for Cancel<'_> {
    fn drop(&mut self) {
        self.of.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

/// Steps under way of the command that is driven.
type UnderWay = Arc<tokio::sync::Mutex<JoinSet<(usize, Done)>>>;

/// A command under way.
struct Run<D: Domain> {
    row: berth_store::Command,
    queued: QueuedOperation<D::Operation>,
    progress: Progress,
    steps: Vec<(berth_store::OperationStep, D::Step)>,
}

impl Operations {
    /// Whether no command is driven at this moment.
    pub fn is_idle(&self) -> bool {
        self.inner.driving.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Drives the target's commands, unless that is done already.
    pub fn drive<D: Domain>(&self, domain: &D, target: Target) {
        let mut driving = self.inner.driving.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(again) = driving.get_mut(&target) {
            *again = true;
            return;
        }
        driving.insert(target, false);
        drop(driving);
        let domain = domain.clone();
        tokio::spawn(async move {
            let operations = domain.operations();
            let under_way = UnderWay::default();
            let (mut failures, mut faults) = (0, 0);
            loop {
                let (driver, steps) = (domain.clone(), under_way.clone());
                // A task of its own, so that a panic is an error like others.
                let driven =
                    tokio::spawn(async move { driver.operations().drive_next(&driver, target, &steps).await }).await;
                // Also after a panic: what is repeated must not run beside itself.
                while under_way.lock().await.join_next().await.is_some() {}
                match driven.unwrap_or_else(|error| Err(Error::Bug(format!("driving broke off: {error}")))) {
                    Ok(true) => (failures, faults) = (0, 0),
                    Ok(false) => {
                        (failures, faults) = (0, 0);
                        let mut driving = operations.inner.driving.0.lock().unwrap_or_else(PoisonError::into_inner);
                        match driving.get_mut(&target) {
                            Some(again) if *again => *again = false,
                            _ => {
                                driving.remove(&target);
                                return;
                            }
                        }
                    }
                    Err(error) => {
                        failures += 1;
                        tracing::error!(
                            ?target,
                            failures,
                            error = error.chain(),
                            "a command could not be taken further"
                        );
                        // A full disk passes, a fault does not.
                        faults = if matches!(error, Error::Bug(_)) { faults + 1 } else { 0 };
                        if faults >= FAULTS {
                            match operations.give_up(&domain, target).await {
                                Ok(()) => (failures, faults) = (1, 0),
                                Err(error) => {
                                    tracing::error!(?target, error = error.chain(), "a command could not be given up");
                                }
                            }
                        }
                        tokio::time::sleep(PAUSE.saturating_mul(1 << (failures - 1).min(16)).min(PAUSE_MAX)).await;
                    }
                }
            }
        });
    }

    /// Ends the command whose turn it is as failed.
    async fn give_up<D: Domain>(&self, domain: &D, target: Target) -> Result<(), Error> {
        let (status, result) = (CommandStatus::Done.word(), Outcome::Failed.word());
        let told = self.write(move |tx| {
            let Some(row) = tx.command_next(target.kind, target.id)? else { return Ok(None) };
            let (at, message) = (now(), "internal error; the server log has the reason");
            tracing::error!(command = row.uid, name = row.name, "a command is given up");
            for mut step in tx.activities(row.id)?.into_iter().filter(|step| step.ended_at.is_none()) {
                let begun = step.status == CommandStatus::Running.word();
                step.message = if begun { message } else { "not begun" }.into();
                step.result = if begun { Outcome::Failed } else { Outcome::Superseded }.word().into();
                (step.status, step.ended_at) = (status.into(), Some(at));
                tx.activity_progress(&step)?;
            }
            tx.command_progress(row.id, status, result, message, Some(at))?;
            let detail = serde_json::json!({
                "name": row.name, "target": row.target_name, "status": status, "result": result, "message": message,
            });
            Ok(Some(tx.event_add(at, row.account_id, "command.done", &row.uid, &detail.to_string())?))
        });
        domain.tell(told.await?.into_iter().collect());
        Ok(())
    }

    /// At the start of the server: what is not over goes on.
    ///
    /// # Errors
    /// The database's own.
    pub async fn resume<D: Domain>(&self, domain: &D) -> Result<(), Error> {
        for (kind, id) in self.read(|tx| Ok(tx.command_targets()?)).await? {
            match target_of::<D>(&kind, id) {
                Some(target) => self.drive(domain, target),
                None => tracing::warn!(kind, id, "commands of an unknown kind of target wait for another version"),
            }
        }
        Ok(())
    }

    /// Takes the oldest command of the target to its end; whether there was one.
    async fn drive_next<D: Domain>(&self, domain: &D, target: Target, under_way: &UnderWay) -> Result<bool, Error> {
        let found = self
            .read(move |tx| {
                let Some(row) = tx.command_next(target.kind, target.id)? else { return Ok(None) };
                let steps = tx.activities(row.id)?;
                Ok(Some((row, steps)))
            })
            .await?;
        let Some((row, steps)) = found else { return Ok(false) };
        let read = |row: berth_store::OperationStep| serde_json::from_str(&row.step).map(|step| (row, step));
        let readable = serde_json::from_str::<QueuedOperation<D::Operation>>(&row.body).and_then(|queued| {
            let steps: Result<Vec<(_, D::Step)>, _> = steps.into_iter().map(read).collect();
            Ok((queued, steps?))
        });
        let (queued, steps) = match readable {
            Ok(readable) => readable,
            Err(error) => {
                // Of another version of this program. Those that wait behind it are not to wait for ever.
                tracing::error!(command = row.uid, %error, "a command can't be read");
                let message = format!("this server can't read it: {error}");
                let (status, result) = (CommandStatus::Done.word(), Outcome::Failed.word());
                self.write(move |tx| Ok(tx.command_progress(row.id, status, result, &message, Some(now()))?)).await?;
                return Ok(true);
            }
        };
        let progress = Progress {
            status: CommandStatus::of(&row.status),
            stopped: None,
            sequential: queued.body.method() == Method::Sequential,
            keeps_going: queued.body.is_undo(),
            steps: steps.iter().map(|(row, _)| StepProgress { stage: row.stage, state: state_of(row) }).collect(),
        };
        let cancel = self.inner.cancels.begin(row.id);
        let mut under_way = under_way.lock().await;
        let result = self.run_command(domain, Run { row, queued, progress, steps }, &cancel.stop, &mut under_way).await;
        result.map(|()| true)
    }

    async fn run_command<D: Domain>(
        &self,
        domain: &D,
        mut run: Run<D>,
        stop: &Notify,
        under_way: &mut JoinSet<(usize, Done)>,
    ) -> Result<(), Error> {
        let caller = Caller::of_command(run.row.account_id, run.queued.role);
        let first = if run.progress.status == CommandStatus::Created { Event::Publish } else { Event::Resume };
        // As it was just read.
        let mut effects = match stop_of(Some(&run.row)) {
            Some(outcome) if run.progress.status != CommandStatus::Running => {
                self.step_on(domain, &mut run, Event::Stop(outcome), None, Vec::new()).await?
            }
            stopped => {
                // Asked before this server was there, perhaps: what ran is repeated, nothing more begins.
                run.progress.stopped = stopped;
                self.step_on(domain, &mut run, first, None, Vec::new()).await?
            }
        };
        loop {
            for effect in std::mem::take(&mut effects) {
                match effect {
                    Effect::Plan => match domain.plan(&run.row, &run.queued.body).await {
                        Ok(planned) => {
                            let stages = planned.iter().map(|step| step.stage).collect();
                            effects = self.step_on(domain, &mut run, Event::Planned(stages), None, planned).await?;
                        }
                        Err(done) => {
                            run.row.message.clone_from(&done.message);
                            effects =
                                self.step_on(domain, &mut run, Event::Stop(done.outcome), None, Vec::new()).await?;
                        }
                    },
                    Effect::Do(index) => {
                        let (row, step) = run.steps[index].clone();
                        let (command, operation) = (run.row.clone(), run.queued.body.clone());
                        let work = Work { caller, command, operation, row, step };
                        let domain = domain.clone();
                        under_way.spawn(async move { (index, domain.operations().do_in_time(&domain, work).await) });
                    }
                    Effect::Finish(_) => {
                        tracing::info!(
                            command = run.row.uid,
                            name = run.row.name,
                            target = run.row.target_name,
                            result = run.row.result,
                            message = run.row.message,
                            "a command is over"
                        );
                        return Ok(());
                    }
                }
            }
            if !effects.is_empty() {
                continue;
            }
            let left = Duration::from_nanos((run.row.deadline - now()).max(0) as u64);
            let event = tokio::select! {
                ended = under_way.join_next() => match ended {
                    Some(Ok((index, done))) => {
                        let outcome = done.outcome;
                        // What supersedes it is known here too late, perhaps: it may be why the step failed.
                        if outcome != Outcome::Success
                            && let Some(why) = self.asked_to_stop(&mut run).await?
                        {
                            self.step_on(domain, &mut run, Event::Stop(why), None, Vec::new()).await?;
                        }
                        effects = self.step_on(domain, &mut run, Event::Ended(index, outcome), Some(done), Vec::new()).await?;
                        continue;
                    }
                    Some(Err(error)) => return Err(Error::Bug(format!("a step of {} broke off: {error}", run.row.uid))),
                    None => return Err(Error::Bug(format!("command {} has nothing to do and is not over", run.row.uid))),
                },
                () = stop.notified() => self.asked_to_stop(&mut run).await?.map(Event::Stop),
                () = tokio::time::sleep(left), if run.progress.stopped.is_none() => Some(Event::Stop(Outcome::TimedOut)),
            };
            if let Some(event) = event {
                effects = self.step_on(domain, &mut run, event, None, Vec::new()).await?;
            }
        }
    }

    async fn asked_to_stop<D: Domain>(&self, run: &mut Run<D>) -> Result<Option<Outcome>, Error> {
        let id = run.row.id;
        let row = self.read(move |tx| Ok(tx.command(id)?)).await?;
        if let Some(row) = &row {
            run.row.cancelled.clone_from(&row.cancelled);
        }
        Ok(stop_of(row.as_ref()))
    }

    /// Takes an event: the new state is saved, then its effects are given to be done.
    #[expect(clippy::too_many_lines, reason = "one transition: state, rows and event are made and written together")]
    async fn step_on<D: Domain>(
        &self,
        domain: &D,
        run: &mut Run<D>,
        event: Event,
        done: Option<Done>,
        planned: Vec<PlannedStep<D::Step>>,
    ) -> Result<Vec<Effect>, Error> {
        let (progress, effects) =
            after(run.progress.clone(), event.clone()).map_err(|illegal| Error::Bug(illegal.to_string()))?;
        if self.inner.closing.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        self.inner.failpoints.point().await;
        self.inner.failpoints.fault()?;
        let at = now();
        let mut changed = Vec::new();
        if let Event::Ended(index, outcome) = event
            && let Some(done) = done
        {
            let row = &mut run.steps[index].0;
            row.status = CommandStatus::Done.word().into();
            row.result = outcome.word().into();
            row.message = done.message;
            row.ended_at = Some(at);
            row.container_id = done.container.unwrap_or(row.container_id);
            changed.push(row.clone());
        }
        for effect in &effects {
            if let Effect::Do(index) = effect
                && let Some((row, _)) = run.steps.get_mut(*index)
                && row.status != CommandStatus::Running.word()
            {
                row.status = CommandStatus::Running.word().into();
                changed.push(row.clone());
            }
        }
        let mut row = run.row.clone();
        row.status = progress.status.word().into();
        if let Some(Effect::Finish(outcome)) = effects.last() {
            row.result = outcome.word().into();
            row.ended_at = Some(at);
            if row.message.is_empty() || run.steps.iter().any(|(s, _)| failed(s)) {
                row.message = summary(run, *outcome, &row);
            }
            for (step, _) in &mut run.steps {
                if step.ended_at.is_none() {
                    step.status = CommandStatus::Done.word().into();
                    step.result = Outcome::Superseded.word().into();
                    step.message = "not begun".into();
                    step.ended_at = Some(at);
                    changed.push(step.clone());
                }
            }
        }
        let begun: Vec<usize> =
            effects.iter().filter_map(|e| if let Effect::Do(n) = e { Some(*n) } else { None }).collect();
        let steps = planned
            .into_iter()
            .enumerate()
            .map(|(index, planned)| {
                let status = if begun.contains(&index) { CommandStatus::Running } else { CommandStatus::Created };
                let text = serde_json::to_string(&planned.step).map_err(|e| Error::Bug(e.to_string()))?;
                let row = berth_store::OperationStep {
                    id: 0,
                    command_id: row.id,
                    stage: planned.stage,
                    name: planned.step.name().into(),
                    container_id: planned.step.container().unwrap_or(0),
                    step: text,
                    status: status.word().into(),
                    result: String::new(),
                    message: String::new(),
                    created_at: at,
                    ended_at: None,
                };
                Ok((row, planned.step))
            })
            .collect::<Result<Vec<_>, Error>>()?;
        let published = run.progress.status != progress.status;
        let undo = match effects.last() {
            Some(Effect::Finish(outcome)) if *outcome != Outcome::Success => self.undo_of(domain, run, *outcome)?,
            _ => None,
        };
        let (operations, follows) = (self.clone(), undo.is_some());
        let saved = row.clone();
        // A command that is only on its way to its plan is saved with that: one disk flush less.
        let passing = effects == [Effect::Plan];
        let (added, event) = if passing {
            (steps, None)
        } else {
            self.write(move |tx| {
                let mut steps = steps;
                for (step, _) in &mut steps {
                    step.id = tx.activity_add(step)?;
                }
                for step in &changed {
                    tx.activity_progress(step)?;
                }
                tx.command_progress(saved.id, &saved.status, &saved.result, &saved.message, saved.ended_at)?;
                if let Some(undo) = undo {
                    operations.enqueue_in::<D>(tx, undo)?;
                }
                let told = if published || !changed.is_empty() {
                    let kind = if saved.ended_at.is_some() { "command.done" } else { "command.running" };
                    let detail = serde_json::json!({
                        "name": saved.name, "target": saved.target_name, "status": saved.status,
                        "result": saved.result, "message": saved.message,
                    });
                    Some(tx.event_add(at, saved.account_id, kind, &saved.uid, &detail.to_string())?)
                } else {
                    None
                };
                Ok((steps, told))
            })
            .await?
        };
        if let Some(ended) = row.ended_at {
            let good = row.result == Outcome::Success.word();
            let took = u64::try_from(ended - row.created_at).unwrap_or(0);
            self.inner.durations.observe(good, Duration::from_nanos(took));
            if !good {
                let (command, kind, target, why) = (&row.uid, &row.kind, &row.target_name, &row.message);
                tracing::warn!(command, kind, target, account = row.account_id, "a command failed: {why}");
            }
        }
        if follows && let Some(target) = target_of::<D>(&row.kind, row.target) {
            self.drive(domain, target);
        }
        run.row = row;
        run.progress = progress;
        run.steps.extend(added);
        domain.tell(event.into_iter().collect());
        self.inner.failpoints.point().await;
        Ok(effects)
    }

    /// The command that takes back what a failed command has replaced: written down with its end.
    fn undo_of<D: Domain>(
        &self,
        domain: &D,
        run: &Run<D>,
        outcome: Outcome,
    ) -> Result<Option<berth_store::Command>, Error> {
        let replaced = |(row, step): &(berth_store::OperationStep, D::Step)| step.replaces() && has_replaced(row);
        let Some(undo) = run.queued.body.undo(&run.row.uid, outcome) else { return Ok(None) };
        let Some(target) = target_of::<D>(&run.row.kind, run.row.target) else { return Ok(None) };
        if !run.steps.iter().any(replaced) {
            return Ok(None);
        }
        let caller = Caller::of_command(run.row.account_id, run.queued.role);
        self.row(domain, &caller, target, &run.row.target_name, undo).map(Some)
    }

    /// A place among the steps that are under way at a time; the outcome of the step if its command stops meanwhile.
    async fn place_for_step(
        &self,
        command: &berth_store::Command,
        left: Duration,
    ) -> Result<Option<berth_identity::Permit>, Outcome> {
        let all = &self.inner.steps_at_once;
        if let Some(place) = all.try_take(command.account_id) {
            return Ok(Some(place));
        }
        let place = tokio::time::timeout(left, all.take(command.account_id)).await.map_err(|_| Outcome::TimedOut)?;
        let id = command.id;
        match self.read(move |tx| Ok(tx.command(id)?)).await {
            Ok(row) => stop_of(row.as_ref()).map_or(Ok(place), Err),
            // The step itself will tell.
            Err(_) => Ok(place),
        }
    }

    async fn do_in_time<D: Domain>(&self, domain: &D, work: Work<D>) -> Done {
        let _place = match work.step.only_waits() {
            true => None,
            false => match self.place_for_step(&work.command, work.time_left()).await {
                Ok(place) => place,
                Err(outcome) => return Done { outcome, message: "not begun".into(), container: None },
            },
        };
        let (domain, left) = (domain.clone(), work.time_left());
        // A task of its own: one that never ends is waited for no longer, and done to its end if that ever comes.
        let work = tokio::spawn(async move {
            let failpoints = domain.operations().failpoints();
            let number = failpoints.point().await;
            if failpoints.fails(number) {
                return Done::failed("failed on purpose");
            }
            let done = domain.run_step(&work).await;
            if failpoints.repeats(number) {
                return domain.run_step(&work).await;
            }
            done
        });
        match tokio::time::timeout(left + LAST_RESORT, work).await {
            Ok(Ok(done)) => done,
            Ok(Err(error)) => {
                tracing::error!(%error, "a step panicked");
                Done::failed("internal error")
            }
            Err(_) => Done::timed_out("timed out"),
        }
    }
}

/// Whether a command is to stop, by its row.
fn stop_of(row: Option<&berth_store::Command>) -> Option<Outcome> {
    match row {
        None => Some(Outcome::NotFound),
        Some(row) if !row.cancelled.is_empty() => Some(Outcome::Superseded),
        Some(row) if row.deadline <= now() => Some(Outcome::TimedOut),
        Some(_) => None,
    }
}

fn state_of(row: &berth_store::OperationStep) -> StepState {
    match CommandStatus::of(&row.status) {
        CommandStatus::Running => StepState::Running,
        CommandStatus::Done | CommandStatus::PublishFailed => {
            StepState::Done(Outcome::of(&row.result).unwrap_or(Outcome::Failed))
        }
        CommandStatus::Created | CommandStatus::Published => StepState::Waiting,
    }
}

fn failed(step: &berth_store::OperationStep) -> bool {
    matches!(Outcome::of(&step.result), Some(outcome) if outcome != Outcome::Success) && step.message != "not begun"
}

/// What came of a command in words: for a failure the first step that failed, and how many were left as they were.
fn summary<D: Domain>(run: &Run<D>, outcome: Outcome, row: &berth_store::Command) -> String {
    let left = run.steps.iter().filter(|(step, _)| step.ended_at.is_none()).count();
    let rest = match left {
        0 => String::new(),
        1 => "; 1 step was not begun".into(),
        n => format!("; {n} steps were not begun"),
    };
    if let Some((step, _)) = run.steps.iter().find(|(step, _)| failed(step)) {
        return format!("{}{rest}", step.message);
    }
    match outcome {
        Outcome::Success if run.steps.iter().any(|(step, _)| step.message == UNCHANGED) => UNCHANGED.into(),
        Outcome::Success => "success".into(),
        Outcome::TimedOut => format!("timed out{rest}"),
        Outcome::Superseded if !row.cancelled.is_empty() => format!("{}{rest}", row.cancelled),
        Outcome::Superseded => format!("cancelled or superseded by a later operation{rest}"),
        Outcome::Failed => format!("it failed{rest}"),
        Outcome::NotFound => format!("{} is gone", row.target_name),
    }
}
