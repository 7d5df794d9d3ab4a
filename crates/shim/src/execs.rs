//! The exec sessions of one container, and the codes of those that have ended.

use crate::message::ExecStatus;
use crate::session::Session;

/// Exec sessions at the same time.
const MAX_LIVE: usize = 1024;
/// Codes that are kept although a daemon has heard them, in case that it forgot.
const MAX_TOLD: usize = 32;
/// Codes that are kept for a daemon to come.
const MAX_UNTOLD: usize = 1024;

#[derive(Debug, Default)]
pub(crate) struct Execs {
    list: Vec<Exec>,
}

#[derive(Debug)]
pub(crate) struct Exec {
    pub id: String,
    pub pid: i32,
    pub state: State,
}

#[derive(Debug)]
pub(crate) enum State {
    Live(Box<Session>),
    Ended { code: i32, told: bool },
}

impl Execs {
    /// Beside those that are about to begin.
    pub fn has_room(&self, beginning: usize) -> bool {
        self.live().count() + beginning < MAX_LIVE
    }

    pub fn add(&mut self, id: String, session: Session) {
        self.list.push(Exec { id, pid: session.pid, state: State::Live(Box::new(session)) });
    }

    /// Those that run, with an index that is good until `prune`.
    pub fn live(&self) -> impl Iterator<Item = (usize, &Session)> {
        self.list.iter().enumerate().filter_map(|(index, exec)| match &exec.state {
            State::Live(session) => Some((index, &**session)),
            State::Ended { .. } => None,
        })
    }

    pub fn at(&mut self, index: usize) -> Option<(&str, &mut Session)> {
        let exec = self.list.get_mut(index)?;
        match &mut exec.state {
            State::Live(session) => Some((&exec.id, session)),
            State::Ended { .. } => None,
        }
    }

    /// The one of this process, if it runs.
    pub fn by_pid(&mut self, pid: i32) -> Option<&mut Session> {
        self.list.iter_mut().find_map(|exec| match &mut exec.state {
            State::Live(session) if session.pid == pid => Some(&mut **session),
            _ => None,
        })
    }

    pub fn named(&self, id: &str) -> Option<&Session> {
        self.list.iter().rev().find(|exec| exec.id == id).and_then(|exec| match &exec.state {
            State::Live(session) => Some(&**session),
            State::Ended { .. } => None,
        })
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Exec> {
        self.list.iter_mut()
    }

    /// A daemon has heard the code.
    pub fn told(&mut self, id: &str) {
        for exec in self.list.iter_mut().filter(|exec| exec.id == id) {
            if let State::Ended { told, .. } = &mut exec.state {
                *told = true;
            }
        }
    }

    pub fn status(&self) -> Vec<ExecStatus> {
        let status = |exec: &Exec| ExecStatus {
            id: exec.id.clone(),
            pid: exec.pid,
            code: match exec.state {
                State::Live(_) => None,
                State::Ended { code, .. } => Some(code),
            },
        };
        self.list.iter().map(status).collect()
    }

    /// Forgets the oldest codes of which there are too many.
    pub fn prune(&mut self) {
        for (told_or_not, most) in [(true, MAX_TOLD), (false, MAX_UNTOLD)] {
            let is_one = |exec: &Exec| match exec.state {
                State::Live(_) => false,
                State::Ended { told, .. } => told == told_or_not,
            };
            let mut surplus =
                self.list.iter().filter(|exec| is_one(exec)).count().saturating_sub(most);
            self.list.retain(|exec| {
                let forget = surplus > 0 && is_one(exec);
                surplus -= usize::from(forget);
                !forget
            });
        }
        if self.list.is_empty() {
            self.list = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_codes_are_forgotten() {
        let mut execs = Execs::default();
        for number in 0..2000 {
            let told = number % 2 == 0;
            execs.list.push(Exec {
                id: number.to_string(),
                pid: number,
                state: State::Ended { code: 0, told },
            });
        }
        execs.prune();
        let kept: Vec<i32> = execs.status().iter().map(|status| status.pid).collect();
        assert_eq!(kept.iter().filter(|pid| **pid % 2 == 0).count(), MAX_TOLD);
        assert_eq!(kept.iter().filter(|pid| **pid % 2 == 1).count(), 1000);
        assert_eq!(kept.last(), Some(&1999));
        assert!(kept.is_sorted());
    }
}
