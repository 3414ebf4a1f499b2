import XCTest

@testable import Edgekd

/// Where the tests run, the bundle does what it promised.
final class SelfTest: XCTestCase {
    func testTheOutputsAreTheGoldenOnes() throws {
        XCTAssertEqual(try Student().selfTest().reason, "")
    }
}
