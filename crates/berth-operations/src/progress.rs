//! The rules of a command's life, and nothing else: state and event in, state and effects out.
//!
//! ```text
//! created --publish--> published --planned--> running --steps, stage by stage--> done
//!    |                     |                     |
//!    +---- stopped ----------------> done        +-- stopped, a step failed: no more begins; what runs is waited for --> done
//! ```
//! A stage begins when all steps of the one before have succeeded. Within a stage steps run side by side, or one after
//! another. The runner saves the new state before it does an effect, so every step may run twice.

use crate::types::{CommandStatus, Outcome};

/// Steps of one command that run side by side at most.
const WIDTH: usize = 16;

/// A command, as far as its rules go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) status: CommandStatus,
    /// Why nothing more is to begin.
    pub(crate) stopped: Option<Outcome>,
    pub(crate) sequential: bool,
    /// A step that fails holds up no other.
    pub(crate) keeps_going: bool,
    pub(crate) steps: Vec<StepProgress>,
}

/// One of its steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StepProgress {
    pub(crate) stage: i64,
    pub(crate) state: StepState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StepState {
    Waiting,
    Running,
    Done(Outcome),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// It is handed to the host.
    Publish,
    /// What it comes to; the stage of each step.
    Planned(Vec<i64>),
    /// A step is over.
    Ended(usize, Outcome),
    /// It is to stop: cancelled, superseded, or timed out.
    Stop(Outcome),
    /// A new server found it.
    Resume,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    Plan,
    Do(usize),
    Finish(Outcome),
}

/// An event that can't happen in that state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a command that is {status:?} can't have {event:?}")]
pub(crate) struct Illegal {
    status: CommandStatus,
    event: Event,
}

/// What an event makes of a command, and what is to be done then.
pub(crate) fn after(mut progress: Progress, event: Event) -> Result<(Progress, Vec<Effect>), Illegal> {
    use CommandStatus::{Created, Done, Published, Running};
    match (progress.status, event) {
        (Created, Event::Publish) => {
            progress.status = Published;
            Ok((progress, vec![Effect::Plan]))
        }
        // Planning changes nothing but what is saved with it.
        (Published, Event::Resume) => Ok((progress, vec![Effect::Plan])),
        (Created | Published, Event::Stop(outcome)) => {
            progress.status = Done;
            progress.stopped = Some(outcome);
            Ok((progress, vec![Effect::Finish(outcome)]))
        }
        (Published, Event::Planned(stages)) => {
            progress.status = Running;
            progress.steps =
                stages.into_iter().map(|stage| StepProgress { stage, state: StepState::Waiting }).collect();
            Ok(go_on(progress))
        }
        (Running, Event::Ended(index, outcome)) if is_running(&progress, index) => {
            progress.steps[index].state = StepState::Done(outcome);
            Ok(go_on(progress))
        }
        (Running, Event::Stop(outcome)) => {
            progress.stopped.get_or_insert(outcome);
            Ok(go_on(progress))
        }
        (Running, Event::Resume) => {
            let again: Vec<_> =
                (0..progress.steps.len()).filter(|n| is_running(&progress, *n)).map(Effect::Do).collect();
            if again.is_empty() { Ok(go_on(progress)) } else { Ok((progress, again)) }
        }
        (status, event) => Err(Illegal { status, event }),
    }
}

fn is_running(progress: &Progress, index: usize) -> bool {
    progress.steps.get(index).is_some_and(|step| step.state == StepState::Running)
}

/// Begins what can begin, or ends it.
fn go_on(mut progress: Progress) -> (Progress, Vec<Effect>) {
    let failure = progress.steps.iter().find_map(|step| match step.state {
        StepState::Done(outcome) if outcome != Outcome::Success => Some(outcome),
        _ => None,
    });
    let running = progress.steps.iter().filter(|step| step.state == StepState::Running).count();
    // What overtook it may have taken away what it was about.
    let taken_away = failure == Some(Outcome::NotFound) && progress.stopped == Some(Outcome::Superseded);
    let halted = failure.filter(|_| !taken_away && !progress.keeps_going);
    if let Some(outcome) = halted.or(progress.stopped) {
        if running > 0 {
            return (progress, Vec::new());
        }
        // What was to be done is done, though it was to stop.
        let complete = progress.steps.iter().all(|step| step.state == StepState::Done(Outcome::Success));
        let outcome = if complete && !progress.steps.is_empty() { Outcome::Success } else { outcome };
        progress.status = CommandStatus::Done;
        return (progress, vec![Effect::Finish(outcome)]);
    }
    let waiting = progress.steps.iter().filter(|step| matches!(step.state, StepState::Waiting | StepState::Running));
    let Some(stage) = waiting.map(|step| step.stage).min() else {
        progress.status = CommandStatus::Done;
        return (progress, vec![Effect::Finish(failure.unwrap_or(Outcome::Success))]);
    };
    let room = if progress.sequential { 1 } else { WIDTH }.saturating_sub(running);
    let next: Vec<usize> = (0..progress.steps.len())
        .filter(|n| progress.steps[*n].stage == stage && progress.steps[*n].state == StepState::Waiting)
        .take(room)
        .collect();
    for index in &next {
        progress.steps[*index].state = StepState::Running;
    }
    (progress, next.into_iter().map(Effect::Do).collect())
}

#[cfg(test)]
mod tests {
    use super::{CommandStatus, Effect, Event, Outcome, Progress, StepState, after};

    #[test]
    fn what_takes_back_goes_on_after_a_failure() {
        let (progress, effects) = planned(false, &[0, 1, 1]);
        let progress = Progress { keeps_going: true, ..progress };
        assert_eq!(effects, [Effect::Do(0)]);
        let (progress, effects) = after(progress, Event::Ended(0, Outcome::Failed)).expect("legal");
        assert_eq!(effects, [Effect::Do(1), Effect::Do(2)]);
        let (progress, effects) = after(progress, Event::Ended(1, Outcome::Success)).expect("legal");
        assert_eq!(effects, []);
        let (_, effects) = after(progress, Event::Ended(2, Outcome::Success)).expect("legal");
        assert_eq!(effects, [Effect::Finish(Outcome::Failed)], "and says so");
    }

    fn planned(sequential: bool, stages: &[i64]) -> (Progress, Vec<Effect>) {
        let new = Progress {
            status: CommandStatus::Created,
            stopped: None,
            sequential,
            keeps_going: false,
            steps: Vec::new(),
        };
        let (published, effects) = after(new, Event::Publish).expect("publish");
        assert_eq!(effects, [Effect::Plan]);
        after(published, Event::Planned(stages.to_vec())).expect("planned")
    }

    #[test]
    fn stages_follow_each_other_and_steps_run_side_by_side_or_in_turn() {
        let (progress, effects) = planned(false, &[0, 1, 1, 2]);
        assert_eq!(effects, [Effect::Do(0)]);
        let (progress, effects) = after(progress, Event::Ended(0, Outcome::Success)).expect("ended");
        assert_eq!(effects, [Effect::Do(1), Effect::Do(2)]);
        let (progress, effects) = after(progress, Event::Ended(2, Outcome::Success)).expect("ended");
        assert_eq!(effects, []);
        let (progress, effects) = after(progress, Event::Ended(1, Outcome::Success)).expect("ended");
        assert_eq!(effects, [Effect::Do(3)]);
        let (progress, effects) = after(progress, Event::Ended(3, Outcome::Success)).expect("ended");
        assert_eq!((progress.status, effects), (CommandStatus::Done, vec![Effect::Finish(Outcome::Success)]));
        let (_, effects) = planned(true, &[1, 1, 1]);
        assert_eq!(effects, [Effect::Do(0)]);
        let (_, effects) = planned(false, &[]);
        assert_eq!(effects, [Effect::Finish(Outcome::Success)]);
    }

    #[test]
    fn the_first_failure_lets_nothing_more_begin() {
        let (progress, _) = planned(false, &[0; 20]);
        let (progress, effects) = after(progress, Event::Ended(3, Outcome::Failed)).expect("ended");
        assert_eq!(effects, []);
        assert_eq!(progress.steps[19].state, StepState::Waiting);
        let mut progress = progress;
        let mut last = Vec::new();
        for index in (0..16).filter(|n| *n != 3) {
            (progress, last) = after(progress, Event::Ended(index, Outcome::Success)).expect("ended");
        }
        assert_eq!(last, [Effect::Finish(Outcome::Failed)]);
        assert_eq!(progress.steps[19].state, StepState::Waiting, "never begun");
        assert!(after(progress, Event::Ended(3, Outcome::Success)).is_err());
    }

    #[test]
    fn a_stop_is_heeded_between_steps_and_a_resume_repeats_what_ran() {
        let (progress, _) = planned(true, &[0, 0]);
        let (again, effects) = after(progress.clone(), Event::Resume).expect("resume");
        assert_eq!((effects, &again), (vec![Effect::Do(0)], &progress));
        let (progress, effects) = after(progress, Event::Stop(Outcome::Superseded)).expect("stop");
        assert_eq!(effects, []);
        let (_, effects) = after(progress, Event::Ended(0, Outcome::Success)).expect("ended");
        assert_eq!(effects, [Effect::Finish(Outcome::Superseded)]);
        let (single, _) = planned(false, &[0]);
        let (single, _) = after(single, Event::Stop(Outcome::TimedOut)).expect("stop");
        let (_, effects) = after(single, Event::Ended(0, Outcome::Success)).expect("ended");
        assert_eq!(effects, [Effect::Finish(Outcome::Success)], "there was nothing left to stop");
    }
}
