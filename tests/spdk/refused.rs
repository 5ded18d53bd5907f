//! What is refused, with a sentence.

use boson::ErrorKind;

use crate::{config, open, run};

#[test]
fn a_target_that_is_not_there_is_named() {
    run(async {
        let error = open("spdk:tcp/127.0.0.1:1/nqn.2016-06.io.spdk:none/1", &config())
            .await
            .expect_err("nobody listens");
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        let text = error.to_string();
        assert!(text.contains("spdk:tcp/127.0.0.1:1") && text.contains("does the target listen"), "{text}");
    });
}

#[test]
fn a_block_device_needs_a_configuration() {
    run(async {
        let error = open("spdk:bdev/Nothing", &config()).await.expect_err("none is given");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("--spdk-config"), "{error}");
        let absent = config().spdk_config("/nonexistent.json");
        let error = open("spdk:bdev/Nothing", &absent).await.expect_err("the file is absent");
        assert_eq!(error.kind(), ErrorKind::NotFound);
    });
}

#[test]
fn other_eal_arguments_are_refused() {
    run(async {
        let _ = open("spdk:tcp/127.0.0.1:1/nqn.2016-06.io.spdk:none/1", &config()).await;
        let other = config().eal_arguments("--no-huge -m 4000");
        let error = open("spdk:tcp/127.0.0.1:1/nqn.2016-06.io.spdk:none/1", &other).await.expect_err("runs");
        assert_eq!(error.kind(), ErrorKind::InUse, "{error}");
    });
}
