//! The README's "Batch your own service in ten lines", word for word: its
//! .proto and its policy, in front of a service that exists only here and of
//! which ferry knows nothing but that file.

use std::{
    convert::Infallible,
    fs, io,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use ferry::accept::frame::framed;
use futures_util::future::join_all;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, Value};
use tokio::net::TcpListener;
use tonic::Code;

use crate::{
    process::Sidecar,
    support::client::{Line, grpc, messages, with},
};

const HEADING: &str = "## Batch your own service in ten lines";
const PLACE: &str = "/shop.Orders/Place";

/// The block of the README's section that is written in `language`.
fn block(language: &str) -> String {
    let path = crate::support::root().join("README.md");
    let readme = fs::read_to_string(path).expect("the README is there");
    let (_, section) = readme
        .split_once(HEADING)
        .expect("the README has the section");
    let fence = format!("```{language}\n");
    let (_, rest) = section
        .split_once(&fence)
        .expect("the section has the block");
    let (block, _) = rest.split_once("```").expect("the block ends");
    block.to_owned()
}

/// A shop that numbers its orders. It is built at run time, out of the .proto.
#[derive(Clone)]
struct Shop {
    pool: DescriptorPool,
    orders: Arc<AtomicU64>,
    calls: Arc<Mutex<Vec<String>>>,
}

impl Shop {
    fn of(proto: &Path) -> Self {
        let folder = proto.parent().expect("it lies in a folder");
        let set = protox::compile([proto], [folder]).expect("the README's .proto compiles");
        Self {
            pool: DescriptorPool::decode(&set.encode_to_vec()[..]).expect("it was just compiled"),
            orders: Arc::default(),
            calls: Arc::default(),
        }
    }

    async fn open(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("loopback has free ports");
        let address = listener.local_addr().expect("it is bound");
        let shop = self.clone();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let shop = shop.clone();
                let service = service_fn(move |request| {
                    let shop = shop.clone();
                    async move { Ok::<_, Infallible>(shop.answer(request).await) }
                });
                let connection = http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(socket), service);
                tokio::spawn(connection);
            }
        });
        address
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<BoxBody<Bytes, io::Error>> {
        let path = request.uri().path().to_owned();
        let method = path.rsplit('/').next().unwrap_or_default().to_owned();
        self.calls
            .lock()
            .expect("nobody panics")
            .push(method.clone());
        let body = request.into_body().collect().await.expect("it comes whole");
        let message = messages(body.to_bytes()).remove(0);
        let service = self
            .pool
            .get_service_by_name("shop.Orders")
            .expect("the README's");
        let known = service.methods().find(|known| known.name() == method);
        let known = known.expect("a method of the README");
        let asked = DynamicMessage::decode(known.input(), message).expect("a valid request");
        let mut reply = DynamicMessage::new(known.output());
        match &*method {
            "Place" => self.receipt(&asked, &mut reply),
            _ => {
                let orders = asked.get_field_by_name("orders").expect("the README's");
                let orders = orders.as_list().expect("a list").iter().map(|order| {
                    let kind = self.pool.get_message_by_name("shop.Receipt");
                    let mut receipt = DynamicMessage::new(kind.expect("the README's"));
                    self.receipt(order.as_message().expect("an order"), &mut receipt);
                    Value::Message(receipt)
                });
                reply.set_field_by_name("receipts", Value::List(orders.collect()));
            }
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let message = framed(&reply.encode_to_vec());
        let frames = [Frame::data(message), Frame::trailers(trailers)];
        let stream = futures_util::stream::iter(frames.map(Ok::<_, io::Error>));
        let mut response = Response::new(StreamBody::new(stream).boxed());
        let grpc = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert("content-type", grpc);
        response
    }

    /// The receipt of an order: its id, and a number that no other has.
    fn receipt(&self, order: &DynamicMessage, receipt: &mut DynamicMessage) {
        let id = order
            .get_field_by_name("id")
            .expect("the README's")
            .into_owned();
        receipt.set_field_by_name("id", id);
        let number = self.orders.fetch_add(1, Ordering::SeqCst) + 1;
        receipt.set_field_by_name("number", Value::U64(number));
    }

    fn calls_of(&self, method: &str) -> usize {
        let calls = self.calls.lock().expect("nobody panics");
        calls.iter().filter(|call| *call == method).count()
    }
}

#[tokio::test]
async fn a_service_that_the_code_knows_nothing_of_is_batched_by_the_readmes_ten_lines() {
    let (proto, policy) = (block("proto"), block("yaml"));
    assert!(
        policy.lines().count() <= 10,
        "ten lines are promised:\n{policy}"
    );
    let home = tempfile::tempdir().expect("a temporary directory can be made");
    let path = home.path().join("orders.proto");
    fs::write(&path, proto).expect("the temporary directory is writable");
    let shop = Shop::of(&path);
    let address = shop.open().await;
    let own = policy
        .replace("http://127.0.0.1:50051", &format!("http://{address}"))
        .replace("orders.proto", &path.display().to_string());
    let sidecar = Sidecar::with_policy(&own).await;

    let line = Line::open(sidecar.address).await;
    let order = shop
        .pool
        .get_message_by_name("shop.Order")
        .expect("the README's");
    let place = async |n: usize, metadata: &[(&str, &str)]| {
        let mut order = DynamicMessage::new(order.clone());
        order.set_field_by_name("id", Value::String(format!("order-{n}")));
        order.set_field_by_name("pieces", Value::U32(1));
        let answer = line
            .ask(with(PLACE, metadata), framed(&order.encode_to_vec()))
            .await;
        assert_eq!(answer.status().code(), Code::Ok, "{}", answer.status());
        let kind = shop
            .pool
            .get_message_by_name("shop.Receipt")
            .expect("the README's");
        let receipt = DynamicMessage::decode(kind, messages(answer.body).remove(0));
        let receipt = receipt.expect("a receipt");
        let field = |name| {
            receipt
                .get_field_by_name(name)
                .expect("the README's")
                .into_owned()
        };
        assert_eq!(
            field("id"),
            Value::String(format!("order-{n}")),
            "each its own"
        );
        field("number").as_u64().expect("a number")
    };
    let mut numbers = join_all((0..200).map(|n| place(n, &[]))).await;
    numbers.sort_unstable();
    assert_eq!(
        numbers,
        (1..=200).collect::<Vec<_>>(),
        "each order was placed once"
    );
    let batches = shop.calls_of("PlaceAll");
    assert!(
        (1..200).contains(&batches),
        "no two of 200 orders shared a call: {batches}"
    );
    assert_eq!(shop.calls_of("Place"), 0);

    // What cannot share a batch reaches the method that it was meant for.
    place(200, &[("x-unheard-of", "1")]).await;
    assert_eq!(shop.calls_of("Place"), 1);
    let refused = line.ask(grpc(PLACE), framed(b"")).await.status();
    assert_eq!(
        (refused.code(), shop.calls_of("Place")),
        (Code::InvalidArgument, 1)
    );
}
