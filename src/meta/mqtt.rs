//! RobustMQ's service of sessions and subscriptions.

use tonic::{Request, Response, Status};

use super::{Listing, MetaService, sessions, subscriptions};
use crate::{
    proto::mqtt::{
        CreateSessionReply, CreateSessionRequest, DeleteSessionReply, DeleteSessionRequest,
        DeleteSubscribeReply, DeleteSubscribeRequest, ListSessionReply, ListSessionRequest,
        ListSubscribeReply, ListSubscribeRequest, SetSubscribeReply, SetSubscribeRequest,
        mqtt_service_server::MqttService,
    },
    raft::Read,
};

#[tonic::async_trait]
impl MqttService for MetaService {
    type ListSessionStream = Listing<ListSessionReply>;
    type ListSubscribeStream = Listing<ListSubscribeReply>;

    async fn create_session(
        &self,
        request: Request<CreateSessionRequest>,
    ) -> Result<Response<CreateSessionReply>, Status> {
        self.write(request.into_inner()).await?;
        Ok(Response::new(CreateSessionReply {}))
    }

    async fn delete_session(
        &self,
        request: Request<DeleteSessionRequest>,
    ) -> Result<Response<DeleteSessionReply>, Status> {
        self.write(request.into_inner()).await?;
        Ok(Response::new(DeleteSessionReply {}))
    }

    async fn list_session(
        &self,
        request: Request<ListSessionRequest>,
    ) -> Result<Response<Listing<ListSessionReply>>, Status> {
        let read = Read::asked(&request)?;
        let client_id = request.into_inner().client_id;
        Ok(Response::new(sessions::list(self, read, client_id).await?))
    }

    async fn set_subscribe(
        &self,
        request: Request<SetSubscribeRequest>,
    ) -> Result<Response<SetSubscribeReply>, Status> {
        self.write(request.into_inner()).await?;
        Ok(Response::new(SetSubscribeReply {}))
    }

    async fn delete_subscribe(
        &self,
        request: Request<DeleteSubscribeRequest>,
    ) -> Result<Response<DeleteSubscribeReply>, Status> {
        self.write(request.into_inner()).await?;
        Ok(Response::new(DeleteSubscribeReply {}))
    }

    async fn list_subscribe(
        &self,
        request: Request<ListSubscribeRequest>,
    ) -> Result<Response<Listing<ListSubscribeReply>>, Status> {
        let read = Read::asked(&request)?;
        Ok(Response::new(subscriptions::list(self, read).await?))
    }
}
