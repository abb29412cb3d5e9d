from chassis.run import main

main("services.billing.app")
