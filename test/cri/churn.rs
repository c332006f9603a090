//! Many pods, several at a time: nothing of them stays.

use crate::Cases;
use crate::lifecycle::image;
use crate::restarts::Traces;
use anyhow::{Result, anyhow, ensure};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use testkit::cri::Cri;
use testkit::{Namespace, cases};

pub(crate) const CASES: Cases = cases![crate::churn::nothing_stays_of_many_pods];

const PODS: usize = 300;
const IN_FLIGHT: usize = 8;

fn nothing_stays_of_many_pods(node: &Namespace) -> Result<()> {
    let hello = image(node, "p1_hello.wat")?;
    let cri = Cri::new(node, &[&hello])?;
    let traces = Mutex::new(Traces::default());
    let made = AtomicUsize::new(0);
    let turns = || -> Result<()> {
        while made.fetch_add(1, Ordering::Relaxed) < PODS {
            let pod = cri.pod(|_| ())?;
            let container = pod.run(&hello, &["/app.wasm"], |_| ())?;
            traces.lock().map_err(|_| anyhow!("another turn panicked"))?.follow(node, &pod)?;
            let said = container.finish(0)?;
            let own = || -> Vec<String> {
                node.log().lines().filter(|line| line.contains(&container.id)).map(str::to_owned).collect()
            };
            ensure!(said == "hello from wasm\n", "{said:?}: {:#?}", own());
            pod.remove()?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..IN_FLIGHT).map(|_| scope.spawn(turns)).collect();
        let ends = threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a turn panicked"))?);
        ends.collect::<Result<()>>()
    })?;
    let traces = traces.into_inner().map_err(|_| anyhow!("a turn panicked"))?;
    traces.until_gone(node)
}
