//! One task per container: the only one that changes it.
//!
//! Requests come as commands, the shim's words as messages; each is admitted by `life`, carried
//! out, written down and published. Nothing here waits for the container itself.

mod adopt;
mod again;
mod change;
mod end;
mod health;
mod networks;
mod sessions;
mod start;
mod supervisor;
mod unlink;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use hoy_shim::client::Connection;
use hoy_shim::message::{AttachRequest, ExecRequest, Failure, Request};
use hoy_wire::{EndpointSettings, HostConfig};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use self::networks::KEPT_RULES;
use crate::directory::Document;
use crate::engine::Inner;
use crate::error::{Error, Result};
use crate::life::Wish;
use crate::record::Record;
use crate::registry::View;
use crate::shim_link::{Incoming, ShimLink};

/// Commands that may wait for one container.
pub(crate) const QUEUE: usize = 64;
type Done<T> = oneshot::Sender<Result<T>>;

/// What the rest of the house asks of a container.
pub(crate) enum Command {
    Start(Done<()>),
    /// Started if its policy has it come back with the daemon.
    Begin(Done<()>),
    /// A signal that somebody sends: its policy heeds that.
    Signal {
        signal: i32,
        all: bool,
        done: Done<()>,
    },
    /// Its next end is the first half of a restart: it stays although it was to be removed.
    KeepAtEnd(Done<()>),
    Pause(bool, Done<()>),
    Resize {
        exec: Option<String>,
        rows: u16,
        columns: u16,
        done: Done<()>,
    },
    Attach {
        request: AttachRequest,
        client: OwnedFd,
        done: Done<()>,
    },
    Exec {
        request: Box<ExecRequest>,
        client: Option<OwnedFd>,
        done: Done<std::result::Result<i32, Failure>>,
    },
    Rename {
        name: String,
        done: Done<()>,
    },
    /// One of its links is no more.
    Unlink {
        alias: String,
        done: Done<()>,
    },
    /// Limits that were checked for themselves.
    Update {
        asked: Box<HostConfig>,
        done: Done<()>,
    },
    /// More room for what it writes.
    Grow {
        size: String,
        done: Done<()>,
    },
    Connect {
        network: Arc<Document>,
        settings: Box<EndpointSettings>,
        done: Done<()>,
    },
    Disconnect {
        network: Arc<Document>,
        force: bool,
        done: Done<()>,
    },
    Remove {
        force: bool,
        /// With the volumes that were made for it alone.
        volumes: bool,
        done: Done<()>,
    },
    /// Answered once everything that the supervisor has said before is known.
    Hear(Done<()>),
    /// The same, and one that does not run has let go of its files.
    Rest(Done<()>),
    /// Ends a supervisor that does not answer; its container ends with it.
    EndSupervisor(Done<()>),
}

pub(crate) struct Driver {
    inner: Arc<Inner>,
    record: Record,
    view: watch::Sender<View>,
    commands: mpsc::Receiver<Command>,
    link: Option<ShimLink>,
    /// Readable once the shim is gone.
    shim: Option<AsyncFd<OwnedFd>>,
    waiting: Vec<(AttachRequest, OwnedFd)>,
    exits: u64,
    /// The code of its last end, which a next run does not change.
    last_code: i32,
    starts: u64,
    /// When its policy starts it again.
    again_at: Option<tokio::time::Instant>,
    /// What was before this daemon is taken up: nothing is started yet.
    settling: bool,
    /// It is stopped to be started again by somebody.
    keep_at_end: bool,
    /// Signals whose answers are awaited.
    signals: Vec<again::Sent>,
    /// The supervisor keeps sockets.
    keeps: bool,
    /// As in the handle.
    tree: Arc<tokio::sync::RwLock<()>>,
    /// It knows of health checks.
    probes: bool,
}

/// What a running container was found as when the daemon started.
pub(crate) enum Found {
    Nothing,
    Alive(Connection),
}

impl Driver {
    /// Starts the task of a container. The handle's view is there at once; `settled` is told when
    /// what was found is taken up.
    pub fn spawn(
        inner: &Arc<Inner>,
        record: Record,
        found: Found,
        settled: Option<oneshot::Sender<()>>,
    ) -> crate::registry::Handle {
        let (view, receiver) = watch::channel(View {
            record: Arc::new(record.clone()),
            exits: 0,
            last_code: record.state.exit_code,
            starts: 0,
            removed: false,
        });
        let last_code = record.state.exit_code;
        let (sender, commands) = mpsc::channel(QUEUE);
        let handle = crate::registry::Handle {
            id: record.id.clone(),
            view: receiver,
            commands: sender,
            attaching: Arc::default(),
            tree: Arc::default(),
        };
        let tree = Arc::clone(&handle.tree);
        let driver = Self {
            inner: Arc::clone(inner),
            record,
            view,
            commands,
            link: None,
            shim: None,
            waiting: Vec::new(),
            exits: 0,
            last_code,
            starts: 0,
            again_at: None,
            settling: settled.is_some(),
            keep_at_end: false,
            signals: Vec::new(),
            keeps: false,
            tree,
            probes: false,
        };
        tokio::spawn(driver.run(found, settled));
        handle
    }

    async fn run(mut self, found: Found, settled: Option<oneshot::Sender<()>>) {
        match found {
            Found::Alive(connection) => self.adopt(connection).await,
            Found::Nothing if settled.is_some() => self.settle().await,
            Found::Nothing => {}
        }
        self.settling = false;
        if let Some(settled) = settled {
            let _ = settled.send(());
        }
        loop {
            let again_at = self.again_at;
            let again = async {
                match again_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let gone = async {
                match &self.shim {
                    Some(shim) => shim.readable().await.map(drop),
                    None => std::future::pending().await,
                }
            };
            let incoming = async {
                match &mut self.link {
                    Some(link) => link.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                incoming = incoming => self.hear(incoming).await,
                _ = gone => self.shim_gone().await,
                () = again => self.start_again().await,
                command = self.commands.recv() => match command {
                    Some(command) => {
                        if self.obey(command).await {
                            return;
                        }
                    }
                    None => return,
                },
            }
        }
    }

    fn id(&self) -> &str {
        self.record.id.as_str()
    }

    fn directory(&self) -> PathBuf {
        self.inner.store.container_directory(self.id())
    }

    fn publish(&self) {
        let record = Arc::new(self.record.clone());
        self.view.send_replace(View {
            record,
            exits: self.exits,
            last_code: self.last_code,
            starts: self.starts,
            removed: false,
        });
    }

    /// Off the path: the truth of a running container is its shim's.
    fn save_later(&self) {
        if let Ok(op) = self.inner.put_record(&self.record) {
            self.inner.store.write_later(vec![op]);
        }
    }

    fn event(&self, action: &str, extra: &[(&str, String)]) {
        self.inner.container_event(&self.record, action, extra);
    }

    /// Published together with what tells of it.
    fn publish_as(&self, action: &str, extra: &[(&str, String)]) {
        self.inner.container_event_with(&self.record, action, extra, || self.publish());
    }

    fn network_events(&self, action: &str, networks: &[Arc<Document>]) {
        for network in networks {
            self.inner.network_event(action, network, Some(self.record.key()));
        }
    }

    fn admit(&self, wish: Wish) -> Result<()> {
        self.record
            .state
            .phase
            .admits(wish, self.id())
            .map_err(|(kind, message)| Error::new(kind, message))
    }

    /// True once the container is removed.
    async fn obey(&mut self, command: Command) -> bool {
        // Whoever asked may have gone meanwhile; the deed is done all the same.
        match command {
            Command::Start(done) => {
                let result = self.start().await;
                let _ = done.send(result);
            }
            Command::Begin(done) => {
                let result = self.begin().await;
                let _ = done.send(result);
            }
            Command::Signal { signal, all, done } => self.signal(signal, all, done).await,
            Command::KeepAtEnd(done) => {
                self.keep_at_end = true;
                let _ = done.send(Ok(()));
            }
            Command::Pause(pause, done) => {
                let result = self.pause(pause).await;
                let _ = done.send(result);
            }
            Command::Resize { exec, rows, columns, done } => {
                let admitted = self.admit(Wish::Resize);
                let request = Request::Resize { exec, rows, columns };
                self.forward(admitted, request, Vec::new(), done).await;
            }
            Command::Attach { request, client, done } => self.attach(request, client, done).await,
            Command::Exec { request, client, done } => self.exec(*request, client, done).await,
            Command::Rename { name, done } => {
                let result = self.rename(name).await;
                let _ = done.send(result);
            }
            Command::Unlink { alias, done } => {
                let result = self.unlink(&alias).await;
                let _ = done.send(result);
            }
            Command::Update { asked, done } => {
                let result = self.update(&asked).await;
                let _ = done.send(result);
            }
            Command::Grow { size, done } => {
                let result = self.grow(size).await;
                let _ = done.send(result);
            }
            Command::Connect { network, settings, done } => {
                let result = self.connect(&network, &settings).await;
                let _ = done.send(result);
            }
            Command::Disconnect { network, force, done } => {
                let result = self.disconnect(&network, force).await;
                let _ = done.send(result);
            }
            Command::Remove { force, volumes, done } => match self.remove(force, volumes).await {
                Ok(()) => {
                    let _ = done.send(Ok(()));
                    return true;
                }
                Err(error) => drop(done.send(Err(error))),
            },
            // The supervisor's words come first, always.
            Command::Hear(done) => drop(done.send(Ok(()))),
            Command::Rest(done) => {
                let result = match self.record.state.phase.is_alive() {
                    true => Ok(()),
                    false => self.wait_for_shim().await,
                };
                let _ = done.send(result);
            }
            Command::EndSupervisor(done) => {
                let result = self.end_supervisor();
                let _ = done.send(result);
            }
        }
        false
    }

    async fn hear(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Answered => self.signals_answered(),
            Incoming::Event(event) => self.on_event(event).await,
            // The pidfd says when it is really gone.
            Incoming::Closed => {
                self.link = None;
                self.signals_answered();
            }
        }
    }
}
