//! What runs the engine: the loop that owns it, the clock it is told the time by, the supervision of everything
//! beside it, and the two stages of its end. Knows the edges only by the channels they share.

pub mod clock;
pub mod config_file;
pub mod event_loop;
pub mod healing;
pub mod heartbeat_file;
pub mod maintenance;
pub mod netns;
pub mod port;
pub mod sd_notify;
pub mod shutdown;
pub mod supervise;
