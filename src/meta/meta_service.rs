//! RobustMQ's service of consumer offsets, keys and values.

use tonic::{Request, Response, Status};

use super::{MetaService, offsets, values};
use crate::{
    proto::meta::{
        DeleteReply, DeleteRequest, ExistsReply, ExistsRequest, GetOffsetDataReply,
        GetOffsetDataRequest, GetPrefixReply, GetPrefixRequest, GetReply, GetRequest,
        HeartbeatReply, HeartbeatRequest, SaveOffsetDataReply, SaveOffsetDataRequest, SetReply,
        SetRequest, meta_service_service_server::MetaServiceService,
    },
    raft::Read,
};

#[tonic::async_trait]
impl MetaServiceService for MetaService {
    async fn save_offset_data(
        &self,
        request: Request<SaveOffsetDataRequest>,
    ) -> Result<Response<SaveOffsetDataReply>, Status> {
        let committed = self.write(request.into_inner()).await?;
        Ok(Response::new(SaveOffsetDataReply { committed }))
    }

    async fn get_offset_data(
        &self,
        request: Request<GetOffsetDataRequest>,
    ) -> Result<Response<GetOffsetDataReply>, Status> {
        let read = Read::asked(&request)?;
        let reply = offsets::of_group(self, read, request.into_inner()).await?;
        Ok(Response::new(reply))
    }

    async fn set(&self, request: Request<SetRequest>) -> Result<Response<SetReply>, Status> {
        self.write(request.into_inner()).await?;
        Ok(Response::new(SetReply {}))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetReply>, Status> {
        let read = Read::asked(&request)?;
        let reply = values::of_key(self, read, request.into_inner().key).await?;
        Ok(Response::new(reply))
    }

    async fn delete(
        &self,
        request: Request<DeleteRequest>,
    ) -> Result<Response<DeleteReply>, Status> {
        self.write(request.into_inner()).await?;
        Ok(Response::new(DeleteReply {}))
    }

    async fn exists(
        &self,
        request: Request<ExistsRequest>,
    ) -> Result<Response<ExistsReply>, Status> {
        let read = Read::asked(&request)?;
        let reply = values::exists(self, read, request.into_inner().key).await?;
        Ok(Response::new(reply))
    }

    async fn get_prefix(
        &self,
        request: Request<GetPrefixRequest>,
    ) -> Result<Response<GetPrefixReply>, Status> {
        let read = Read::asked(&request)?;
        let reply = values::with_prefix(self, read, request.into_inner().prefix).await?;
        Ok(Response::new(reply))
    }

    /// Says that the node is there; nothing of it reaches Raft.
    async fn heartbeat(
        &self,
        _: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatReply>, Status> {
        Ok(Response::new(HeartbeatReply {}))
    }
}
