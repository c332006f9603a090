//! probe
use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::*;
use containerd_client::tonic::Request as R;
use std::io::Read;
use std::path::PathBuf;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    rt.block_on(async {
        let ch = containerd_client::connect(&a[1]).await.unwrap();
        let mut c = ContainersClient::new(ch);
        let id = format!("probe{}", std::process::id());
        let mut req = R::new(CreateContainerRequest {
            container: Some(Container {
                id: id.clone(),
                image: a[2].clone(),
                runtime: Some(container::Runtime { name: "io.containerd.wasm.v1".into(), options: None }),
                spec: Some(Default::default()),
                ..Default::default()
            }),
        });
        req.metadata_mut().insert("containerd-namespace", "default".parse().unwrap());
        c.create(req).await.unwrap();
        let bundle = PathBuf::from(&a[3]);
        let ct = oci::Containerd { address: a[1].clone().into(), namespace: "default".into() };
        let mounts: Vec<_> = a
            .get(4)
            .map(|o| oci::RootfsMount {
                kind: "overlay".into(),
                source: "overlay".into(),
                options: o.split(',').map(String::from).collect(),
            })
            .into_iter()
            .collect();
        let t = std::time::Instant::now();
        let r = oci::lower(oci::Request {
            id: &id,
            bundle: &bundle,
            rootfs: &bundle.join("rootfs"),
            rootfs_mounts: &mounts,
            options: None,
            containerd: &ct,
        })
        .await;
        println!("took {:?}", t.elapsed());
        println!(
            "{}",
            std::fs::read_to_string("/proc/self/status").unwrap().lines().find(|l| l.starts_with("Threads")).unwrap()
        );
        match r {
            Ok(l) => {
                println!("{:?} args {:?}", l.plan.source, l.plan.invocation.args);
                println!("{:?}", l.wasm);
                let mut f = l.wasm.open().await.unwrap();
                let mut v = vec![];
                f.read_to_end(&mut v).unwrap();
                println!("read {}", v.len());
            }
            Err(e) => {
                let mut e: &dyn std::error::Error = &e;
                print!("ERR {e}");
                while let Some(s) = e.source() {
                    print!(": {s}");
                    e = s;
                }
                println!();
            }
        }
        let mut req = R::new(DeleteContainerRequest { id: id.clone() });
        req.metadata_mut().insert("containerd-namespace", "default".parse().unwrap());
        c.delete(req).await.unwrap();
    });
}
