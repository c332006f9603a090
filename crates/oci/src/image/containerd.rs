//! Asks containerd over its gRPC socket: the image of a container, its target, the bytes of a blob.
//! It must not know what the documents of an image mean.

use crate::Containerd;
use containerd_client::services::v1::containers_client::ContainersClient;
use containerd_client::services::v1::content_client::ContentClient;
use containerd_client::services::v1::images_client::ImagesClient;
use containerd_client::services::v1::introspection_client::IntrospectionClient;
use containerd_client::services::v1::{
    GetContainerRequest, GetImageRequest, PluginsRequest, ReadContentRequest, ReadContentResponse,
};
use containerd_client::tonic::metadata::{Ascii, MetadataValue};
use containerd_client::tonic::transport::{Channel, Error as TransportError};
use containerd_client::tonic::{Code, Request, Status, Streaming};
use plan::Digest;
use std::path::PathBuf;
use std::time::Duration;

/// containerd waits for Create while we ask it: without a bound, one that hangs would hang the pod for good.
const PATIENCE: Duration = Duration::from_secs(10);
/// Key of the namespace in a call's metadata (containerd, `pkg/namespaces/grpc.go`).
const NAMESPACE: &str = "containerd-namespace";

/// Why containerd did not answer, or not what was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection.
    #[error("connect to containerd at {address}: is it running there?")]
    Connect {
        /// The socket.
        address: PathBuf,
        /// What went wrong.
        #[source]
        source: TransportError,
    },
    /// Not fit for a call's metadata.
    #[error("containerd namespace {0:?} is not ascii text: use another namespace")]
    Namespace(String),
    /// A call failed.
    #[error("ask containerd for {what}")]
    Call {
        /// What was asked for.
        what: String,
        /// Its answer.
        #[source]
        source: Box<Status>,
    },
    /// No answer.
    #[error("containerd did not answer for {} s when asked for {what}: look at its log", PATIENCE.as_secs())]
    Timeout {
        /// What was asked for.
        what: String,
    },
    /// An answer without the thing itself.
    #[error("containerd's answer for {what} is empty: look at its log")]
    Empty {
        /// What was asked for.
        what: String,
    },
}

/// A connection in one namespace.
#[derive(Debug)]
pub(super) struct Client {
    channel: Channel,
    namespace: MetadataValue<Ascii>,
}

impl Client {
    pub(super) async fn connect(containerd: &Containerd) -> Result<Self, Error> {
        let namespace = containerd.namespace.parse().map_err(|_| Error::Namespace(containerd.namespace.clone()))?;
        let connected = containerd_client::connect(&containerd.address);
        match tokio::time::timeout(PATIENCE, connected).await {
            Ok(Ok(channel)) => Ok(Client { channel, namespace }),
            Ok(Err(source)) => Err(Error::Connect { address: containerd.address.clone(), source }),
            Err(_) => Err(Error::Timeout { what: "a connection".to_owned() }),
        }
    }

    /// The name of the container's image; empty if it was made without one.
    pub(super) async fn image_of(&self, id: &str) -> Result<String, Error> {
        let what = || format!("container {id}");
        let mut client = ContainersClient::new(self.channel.clone());
        let request = self.request(GetContainerRequest { id: id.to_owned() });
        let response = answer(what, client.get(request)).await?;
        let container = response.container.ok_or_else(|| Error::Empty { what: what() })?;
        Ok(container.image)
    }

    /// The digest of the image's index or manifest.
    pub(super) async fn target_of(&self, image: &str) -> Result<String, Error> {
        let what = || format!("image {image}");
        let mut client = ImagesClient::new(self.channel.clone());
        let request = self.request(GetImageRequest { name: image.to_owned() });
        let response = answer(what, client.get(request)).await?;
        let target = response.image.and_then(|image| image.target);
        Ok(target.ok_or_else(|| Error::Empty { what: what() })?.digest)
    }

    /// The directory of the local content store, if containerd tells it.
    pub(super) async fn content_root(&self) -> Result<Option<PathBuf>, Error> {
        let mut client = IntrospectionClient::new(self.channel.clone());
        let request =
            self.request(PluginsRequest { filters: vec!["type==io.containerd.content.v1,id==content".to_owned()] });
        let what = || "the place of its content store".to_owned();
        let response = answer(what, client.plugins(request)).await?;
        let mut plugins = response.plugins.into_iter();
        let root = plugins.find_map(|mut plugin| plugin.exports.remove("root"));
        Ok(root.map(PathBuf::from))
    }

    /// Starts reading `length` bytes of a blob, or all if 0.
    pub(super) async fn read(&self, digest: &Digest, length: i64) -> Result<Blob, Error> {
        let mut client = ContentClient::new(self.channel.clone());
        let request = self.request(ReadContentRequest { digest: digest.to_string(), offset: 0, size: length });
        let what = format!("blob {digest}");
        let stream = answer(|| what.clone(), client.read(request)).await?;
        Ok(Blob { stream, what })
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert(NAMESPACE, self.namespace.clone());
        request
    }
}

/// A blob on its way.
#[derive(Debug)]
pub(super) struct Blob {
    stream: Streaming<ReadContentResponse>,
    what: String,
}

impl Blob {
    /// The next part; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, Error> {
        let message = tokio::time::timeout(PATIENCE, self.stream.message());
        match message.await {
            Ok(Ok(part)) => Ok(part.map(|part| part.data)),
            Ok(Err(status)) => Err(Error::Call { what: self.what.clone(), source: Box::new(status) }),
            Err(_) => Err(Error::Timeout { what: self.what.clone() }),
        }
    }
}

impl Error {
    /// Whether the thing is not there, rather than containerd unable to answer.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Error::Call { source, .. } if source.code() == Code::NotFound)
    }
}

async fn answer<T>(
    what: impl Fn() -> String,
    call: impl Future<Output = Result<containerd_client::tonic::Response<T>, Status>>,
) -> Result<T, Error> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(Error::Call { what: what(), source: Box::new(status) }),
        Err(_) => Err(Error::Timeout { what: what() }),
    }
}
