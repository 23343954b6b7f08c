//! Apart: what may hang, on a thread of its own that is left behind then. A file system whose server or program does not
//! answer must not hold up a command.

use tokio::sync::oneshot;

/// Does it; the answer comes when it comes.
pub(crate) fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> oneshot::Receiver<T> {
    let (answer, answered) = oneshot::channel();
    std::thread::spawn(move || {
        // Nobody may wait for it any more.
        let _ = answer.send(work());
    });
    answered
}
